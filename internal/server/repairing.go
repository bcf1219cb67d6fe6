package server

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepRepair marks a root disk that is being repaired: "repair RAN", where RAN
// is what the server was before: running, stopped or detached.
const stepRepair = "repair"

// StateRepairing is a server whose root disk is at a helper, or on its way.
const StateRepairing = "repairing"

// underRepair tells that the root disk is being repaired, and how to end that.
func (w *world) underRepair() error {
	if repairing(w.root()) == "" {
		return nil
	}
	return &Error{Code: KindExists, Reason: "a repair isn't finished", Remedy: "stead repair " + w.name + " --finish"}
}

// repairing returns what a server was before its root was taken to be
// repaired, "" when it isn't.
func repairing(root *types.Volume) string {
	if root == nil {
		return ""
	}
	verb, ran, _ := strings.Cut(tagOf(root.Tags, tagStep), " ")
	if verb != stepRepair {
		return ""
	}
	return ran
}
