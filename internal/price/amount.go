package price

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Amount is money in millionths of a unit of its currency. It is exact: prices
// are decimals, and sums of binary fractions drift.
type Amount int64

const (
	decimals = 6
	unit     = 1_000_000 // one dollar or euro
	cent     = unit / 100
)

// ErrAmount is the cause of an error about a text that is no exact amount.
var ErrAmount = errors.New("not an amount of at most 6 decimals")

// ParseAmount reads a decimal such as "0.0104000000". It is ErrAmount when the
// value is negative, too large, or has more than 6 decimals that aren't zero: a
// figure that can't be kept exactly isn't kept.
func ParseAmount(s string) (Amount, error) {
	bad := fmt.Errorf("%q: %w", s, ErrAmount)
	whole, fraction, _ := strings.Cut(s, ".")
	fraction = strings.TrimRight(fraction, "0")
	if whole == "" || len(whole) > 12 || len(fraction) > decimals {
		return 0, bad
	}
	digits := whole + fraction + strings.Repeat("0", decimals-len(fraction))
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, bad
	}
	return Amount(n), nil
}

// String is the exact decimal, with at least two places: 7.592, 3.65, 12.00.
func (a Amount) String() string {
	sign := ""
	n := uint64(a)
	if a < 0 {
		sign, n = "-", uint64(-a)
	}
	fraction := strings.TrimRight(fmt.Sprintf("%06d", n%unit), "0")
	for len(fraction) < 2 {
		fraction += "0"
	}
	return sign + strconv.FormatUint(n/unit, 10) + "." + fraction
}

// Cents is the amount as people write it, rounded to two places: 7.59. What is
// more than nothing and less than a cent says so, lest it look free.
func (a Amount) Cents() string {
	if a > 0 && a < cent {
		return "<0.01"
	}
	half := Amount(cent / 2)
	if a < 0 {
		half = -half
	}
	return ((a + half) / cent * cent).String()
}

// MarshalJSON writes the exact decimal as a number.
func (a Amount) MarshalJSON() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalJSON reads a number, or a string that holds one.
func (a *Amount) UnmarshalJSON(data []byte) error {
	var err error
	*a, err = ParseAmount(strings.Trim(string(data), `"`))
	return err
}

// Symbol is the sign that stands before an amount of a currency: $, €.
func Symbol(currency string) string {
	switch currency {
	case "USD":
		return "$"
	case "EUR":
		return "€"
	}
	return currency + " "
}

// times is a × n / d, rounded to the nearest millionth. It saturates, so that
// no input makes a small amount of a large one.
func (a Amount) times(n, d int64) Amount {
	if a <= 0 || n <= 0 || d <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(a), uint64(n))
	lo, carry := bits.Add64(lo, uint64(d)/2, 0)
	hi += carry
	if hi >= uint64(d) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(d))
	if q > math.MaxInt64 {
		return math.MaxInt64
	}
	return Amount(q)
}

// plus is a + b, saturating.
func (a Amount) plus(b Amount) Amount {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Range is an amount that isn't known exactly: from Low to High, both of them
// possible. A known one has both equal.
type Range struct {
	Low  Amount `json:"low"`
	High Amount `json:"high"`
}

func exactly(a Amount) Range { return Range{a, a} }

// Plus adds two ranges.
func (r Range) Plus(other Range) Range {
	return Range{r.Low.plus(other.Low), r.High.plus(other.High)}
}

// Cents is the range as people write it: 7.59, or 7.59-9.10.
func (r Range) Cents() string {
	if low, high := r.Low.Cents(), r.High.Cents(); low != high {
		return low + "-" + high
	}
	return r.Low.Cents()
}
