package server

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// A wait sits out an endpoint that refuses connections for a while, but ends
// when it is the local cloud, which nobody else starts again.
func TestWaitForDeadEndpoint(t *testing.T) {
	refused := fmt.Errorf("describe: %w", syscall.ECONNREFUSED)
	for _, local := range []bool{false, true} {
		m := &Manager{local: local, pollMin: time.Millisecond, pollMax: time.Millisecond}
		looks := 0
		err := m.poll(context.Background(), 10*time.Second, "it to be there", "it", func(context.Context) (bool, error) {
			if looks++; looks < 3 {
				return false, refused
			}
			return true, nil
		})
		if !local && err != nil || local && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("local %v: after %d looks: %v", local, looks, err)
		}
	}
}
