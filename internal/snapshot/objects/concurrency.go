package objects

import "context"

// Concurrency wraps a store so that at most n of its methods run at a time. List
// counts only while it isn't in the caller's hands.
func Concurrency(s Store, n int) Store {
	return &concurrency{Store: s, slots: make(chan struct{}, max(n, 1))}
}

type concurrency struct {
	Store
	slots chan struct{}
}

func (c *concurrency) enter(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *concurrency) leave() { <-c.slots }

func (c *concurrency) Create(ctx context.Context, name string, data []byte) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	return c.Store.Create(ctx, name, data)
}

func (c *concurrency) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := c.enter(ctx); err != nil {
		return 0, err
	}
	defer c.leave()
	return c.Store.ReadAt(ctx, name, p, off)
}

func (c *concurrency) Stat(ctx context.Context, name string) (Info, error) {
	if err := c.enter(ctx); err != nil {
		return Info{}, err
	}
	defer c.leave()
	return c.Store.Stat(ctx, name)
}

func (c *concurrency) List(ctx context.Context, kind string, fn func(Info) error) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	return c.Store.List(ctx, kind, func(info Info) error {
		c.leave()
		err := fn(info) // may call the store
		c.slots <- struct{}{}
		return err
	})
}

func (c *concurrency) Rename(ctx context.Context, from, to string) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	return c.Store.Rename(ctx, from, to)
}

func (c *concurrency) Delete(ctx context.Context, name string) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	return c.Store.Delete(ctx, name)
}
