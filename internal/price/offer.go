package price

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxOffer bounds what is read of an offer file. EC2's of a large region has
// some hundred MB.
const maxOffer = 4 << 30

// errOffer is the cause of an error about a file that isn't an offer file.
var errOffer = errors.New("not an offer file")

// parseOffer reads a public offer file, and returns the figures of region, of
// the given instance types alone (none: of all). It keeps only the products
// that matter, however large the file.
func parseOffer(r io.Reader, region, source string, types map[string]bool) ([]Figure, error) {
	o := offer{
		dec: json.NewDecoder(io.LimitReader(r, maxOffer)), region: region, stamp: stamp{source: source},
		types: types, products: map[string]product{}, terms: map[string]terms{},
	}
	if err := o.object(o.section); err != nil {
		return nil, fmt.Errorf("read %s: %w", source, err)
	}
	if o.stamp.date == "" {
		return nil, fmt.Errorf("read %s: %w: it has no publication date", source, errOffer)
	}
	var list []Figure
	for sku, p := range o.products {
		list = append(list, p.figures(region, o.terms[sku], o.stamp)...)
	}
	return list, nil
}

// offer is a file that is being read.
type offer struct {
	dec      *json.Decoder
	region   string
	stamp    stamp
	types    map[string]bool
	products map[string]product
	terms    map[string]terms // by SKU
}

// object reads an object and calls member for each key, to read its value.
func (o *offer) object(member func(key string) error) error {
	if err := o.delim('{'); err != nil {
		return err
	}
	for o.dec.More() {
		t, err := o.dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return errOffer
		}
		if err := member(key); err != nil {
			return err
		}
	}
	return o.delim('}')
}

func (o *offer) delim(want json.Delim) error {
	t, err := o.dec.Token()
	if err != nil {
		return err
	}
	if t != want {
		return errOffer
	}
	return nil
}

func (o *offer) section(key string) error {
	switch key {
	case "publicationDate":
		var timestamp string
		err := o.dec.Decode(&timestamp)
		o.stamp.date = day(timestamp)
		return err
	case "products":
		return o.object(o.product)
	case "terms":
		return o.object(func(how string) error {
			return o.object(func(sku string) error { return o.term(how, sku) })
		})
	}
	return o.skip()
}

func (o *offer) product(sku string) error {
	var p product
	if err := o.dec.Decode(&p); err != nil {
		return err
	}
	kind, item, ok := p.classify(o.region)
	if ok && (kind != KindInstance || len(o.types) == 0 || o.types[item]) {
		o.products[sku] = p
	}
	return nil
}

func (o *offer) term(how, sku string) error {
	if _, matters := o.products[sku]; !matters {
		return o.skip()
	}
	var ways map[string]term
	if err := o.dec.Decode(&ways); err != nil {
		return err
	}
	if o.terms[sku] == nil {
		o.terms[sku] = terms{}
	}
	o.terms[sku][how] = ways
	return nil
}

func (o *offer) skip() error {
	var skipped json.RawMessage
	return o.dec.Decode(&skipped)
}
