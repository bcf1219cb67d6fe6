package server

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepRepair is the verb of a repair's mark.
const stepRepair = "repair"

// StateRepairing is a server whose root disk is at a helper, or on its way.
const StateRepairing = "repairing"

// repairMark is what stead:step on a root disk says while that is repaired:
// "repair WAS NONCE", and "back" when it is being put back.
type repairMark struct {
	was   string // the server's state before: running, stopped or detached
	nonce string // tells this repair's helper from those of earlier ones
	back  bool
}

func (r repairMark) begun() bool { return r.was != "" }

func (r repairMark) String() string {
	words := []string{stepRepair, r.was, r.nonce}
	if r.back {
		words = append(words, "back")
	}
	return strings.Join(words, " ")
}

// repairing reads the mark of a root disk.
func repairing(root *types.Volume) repairMark {
	if root == nil {
		return repairMark{}
	}
	words := strings.Fields(tagOf(root.Tags, tagStep))
	if len(words) < 3 || words[0] != stepRepair {
		return repairMark{}
	}
	return repairMark{was: words[1], nonce: words[2], back: len(words) > 3}
}

// underRepair tells that the root disk is being repaired, and how to end that.
func (w *world) underRepair() error {
	if !repairing(w.root()).begun() {
		return nil
	}
	return &Error{Code: KindExists, Reason: "a repair isn't finished", Remedy: "stead repair " + w.name + " --finish"}
}
