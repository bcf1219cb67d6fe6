//go:build !(linux && amd64)

package machine

import (
	"fmt"
	"runtime"
	"time"
)

// Probe says whether KVM runs x86-64 guests: never on another architecture.
func Probe(time.Duration) error {
	return fmt.Errorf("%w: this is %s/%s", ErrKVMUnusable, runtime.GOOS, runtime.GOARCH)
}
