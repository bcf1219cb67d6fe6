package cloud

import (
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// Transactions take the networks' lock to tell of moved ports, so nobody may
// begin a transaction while holding it: a writer that waits for the readers'
// end, so that it can grow the file, keeps new readers waiting as well.
func TestNetworkReadsBeforeItLocks(t *testing.T) {
	c, client := newTestCloud(t)
	allocate(t, client) // the region's defaults exist
	err := c.db.View(func(*state.Tx) error {
		go func() {
			_ = c.db.Update(func(tx *state.Tx) error { // larger than the file
				return state.Put(tx, &state.Parameter{Meta: state.Meta{Account: DefaultAccount, Region: DefaultRegion, ID: "big"}, Value: string(make([]byte, 4<<20))})
			})
		}()
		eventually(t, "the writer waits", func() bool {
			read := make(chan struct{})
			go func() {
				_ = c.db.View(func(*state.Tx) error { return nil })
				close(read)
			}()
			select {
			case <-read:
				return false
			case <-time.After(50 * time.Millisecond):
				return true
			}
		})
		go func() { _, _ = c.network(testScope) }()
		told := make(chan struct{})
		go func() {
			defer close(told)
			for range 100 {
				c.networks.get(testScope)
				time.Sleep(time.Millisecond)
			}
		}()
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Error("a transaction waits for the networks' lock, whose holder waits for it")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
