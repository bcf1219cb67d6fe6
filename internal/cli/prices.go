package cli

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// priceDir is where refreshed prices lie.
func (a *App) priceDir() (string, error) {
	dir, err := a.cacheDir()
	return filepath.Join(dir, "prices"), err
}

// priceBook opens the program's table of prices, and what was refreshed of a
// region. A cache that can't be read costs a line of --debug, and no verb.
func (a *App) priceBook(ctx context.Context, region string) (*price.Book, error) {
	var newer []price.Figure
	dir, err := a.priceDir()
	if err == nil {
		newer, err = price.ReadCache(dir, region)
	}
	if err != nil {
		a.log().WarnContext(ctx, "no refreshed prices", "err", err)
	}
	return price.New(newer...)
}

// chargedPrices are the prices that a context's cloud charges: AWS's own. The
// local cloud costs nothing, and what another endpoint costs isn't known.
func (a *App) chargedPrices(ctx context.Context, c contexts.Context, region string) *price.Book {
	if c.Kind != contexts.KindAWS {
		return nil
	}
	book, err := a.priceBook(ctx, region)
	if err != nil {
		a.log().WarnContext(ctx, "no prices", "err", err)
		return nil
	}
	return book
}

// monthly is what a server costs a month, for people: "$17.51", with a + where
// a part has no price, "free" in the local cloud, "" where it isn't known.
func monthly(s *session, v *server.Server) string {
	switch {
	case s.local != nil:
		return "free"
	case v.Month == nil:
		return ""
	}
	return monthText(v.Month)
}

func monthText(m *server.Month) string {
	text := price.Symbol(m.Currency) + m.Cents()
	if len(m.Missing) > 0 {
		text += " + " + strings.Join(m.Missing, ", ")
	}
	return text
}
