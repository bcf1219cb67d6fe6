package blocks

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/smithy-go"
)

// How many blocks are under way at once. AWS allows about a thousand calls a
// second, which 64 connections of 60 ms fill.
const (
	firstParallel = 16
	mostParallel  = 64
)

// backOffEvery is how often the gate closes by half at most: the calls that are
// under way when it is too much are all refused.
const backOffEvery = time.Second

// gate bounds how many blocks are under way, as the endpoints bear it: one more
// for each round that went well, half of them when one was refused.
type gate struct {
	mu      sync.Mutex
	limit   float64
	most    float64
	busy    int
	backed  time.Time
	changed chan struct{} // closed when there may be room
}

func newGate(most int) *gate {
	return &gate{limit: float64(min(firstParallel, most)), most: float64(most), changed: make(chan struct{})}
}

// enter waits for room.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.busy < int(g.limit) {
			g.busy++
			g.mu.Unlock()
			return nil
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave makes room; well tells that the block came through.
func (g *gate) leave(well bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	if well {
		g.limit = min(g.limit+1/g.limit, g.most)
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

// throttled closes the gate by half.
func (g *gate) throttled() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.backed) >= backOffEvery {
		g.backed = now
		g.limit = max(g.limit/2, 1)
	}
}

// retryer is the SDK's own, which tries again and waits between, and the gate
// learns of what was too much. The SDK's budget of retries is for a service
// that is down; under 64 calls that are told to come later it would be spent at
// once, so there is none.
func (g *gate) retryer(o *ebs.Options) {
	o.Retryer = watched{retry.NewStandard(func(s *retry.StandardOptions) {
		s.MaxAttempts, s.MaxBackoff, s.RateLimiter = 12, 20*time.Second, ratelimit.None
	}), g}
}

type watched struct {
	aws.RetryerV2
	gate *gate
}

// RetryDelay implements aws.Retryer.
func (w watched) RetryDelay(attempt int, err error) (time.Duration, error) {
	if isThrottle(err) {
		w.gate.throttled()
	}
	return w.RetryerV2.RetryDelay(attempt, err)
}

// isThrottle tells an answer that means "less".
func isThrottle(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	_, ok := retry.DefaultThrottleErrorCodes[api.ErrorCode()]
	return ok
}

// apiCode is the endpoint's error code, "" for none.
func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
