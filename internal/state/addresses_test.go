package state_test

import (
	"slices"
	"testing"

	"github.com/steadcloud/stead/internal/state"
)

// The addresses are those of the whole records, whatever their scope.
func TestAllInstanceAddresses(t *testing.T) {
	db := open(t)
	for n, s := range []state.Scope{home, other} {
		for _, ip := range []string{"172.31.0.4", "172.31.0.5"} {
			put(t, db, &state.Instance{
				Meta:  state.Meta{Account: s.Account, Region: s.Region, ID: "i-" + ip, Tags: map[string]string{"state": "none", "publicIP": "none"}},
				State: state.Running, PrivateIP: ip, PublicIP: ip + "0"[:n],
			})
		}
	}
	put(t, db, volume(home, "vol-1"))
	view(t, db, func(tx *state.Tx) error {
		whole, err := state.All[state.Instance](tx)
		if err != nil {
			return err
		}
		var want []state.InstanceAddresses
		for _, i := range whole {
			want = append(want, state.InstanceAddresses{Scope: i.Scope(), State: i.State, PrivateIP: i.PrivateIP, PublicIP: i.PublicIP})
		}
		got, err := state.AllInstanceAddresses(tx)
		if len(want) != 4 || !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return err
	})
}
