package state_test

import (
	"fmt"
	"testing"

	"github.com/steadcloud/stead/internal/state"
)

// A hint never hides a record that has the tag, however it is written, and
// spares most of the others.
func TestMayHaveTag(t *testing.T) {
	odd := []string{"plain", "", `a"b`, `back\slash`, "<&>", "line\nbreak", "tab\t\x01", "é\u2028漢😀", `","x":"y`, "Name", "\ufffd"}
	db := open(t)
	s := state.Scope{Account: "1", Region: "r"}
	err := db.Update(func(tx *state.Tx) error {
		for i, key := range odd {
			for j, value := range odd {
				v := &state.Volume{Meta: state.Meta{Account: "1", Region: "r", ID: fmt.Sprintf("vol-%02d%02d", i, j), Tags: map[string]string{key: value, "other": "x"}}}
				if err := state.Put(tx, v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := func(hint state.Hint) map[string]bool {
		t.Helper()
		ids := map[string]bool{}
		err := db.View(func(tx *state.Tx) error {
			recs, _, err := state.ListAfter[state.Volume](tx, s, "", 0, hint)
			for _, v := range recs {
				ids[v.ID] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	for i, key := range odd {
		for j, value := range odd {
			if got := list(state.MayHaveTag(key, "nobody has it", value)); !got[fmt.Sprintf("vol-%02d%02d", i, j)] {
				t.Errorf("the record with %q=%q is hidden", key, value)
			} else if len(got) > 3 {
				t.Errorf("%d records may have %q=%q, want 3 at most", len(got), key, value)
			}
		}
		if got := list(state.MayHaveKey(key)); len(got) < len(odd) {
			t.Errorf("%d of the records with %q are left", len(got), key)
		}
	}
	if got := list(state.MayHaveKey("nobody has it")); len(got) > 0 {
		t.Errorf("%d records are left of a tag that none has", len(got))
	}
}
