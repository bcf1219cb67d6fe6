package cloud

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"regexp"

	"github.com/steadcloud/stead/internal/state"
)

// newID makes an ID as EC2 does: the prefix and 17 hexadecimal digits.
func newID(prefix string) string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return prefix + "-" + hex.EncodeToString(b[:])[:17]
}

// idKind is how one kind of ID is written and how EC2 refuses it.
type idKind struct {
	prefix    string
	notFound  string // code
	malformed string // code
	message   string // of notFound, with one %s
}

var (
	instanceIDs = idKind{"i", "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "The instance ID '%s' does not exist"}
	volumeIDs   = idKind{"vol", "InvalidVolume.NotFound", "InvalidParameterValue", "The volume '%s' does not exist."}
	snapshotIDs = idKind{"snap", "InvalidSnapshot.NotFound", "InvalidParameterValue", "The snapshot '%s' does not exist."}
	imageIDs    = idKind{"ami", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "The image id '[%s]' does not exist"}
	kernelIDs   = idKind{"aki", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "The kernel image id '[%s]' does not exist"}
	groupIDs    = idKind{"sg", "InvalidGroup.NotFound", "InvalidGroupId.Malformed", "The security group '%s' does not exist"}
	addressIDs  = idKind{"eipalloc", "InvalidAllocationID.NotFound", "InvalidParameterValue", "The allocation ID '%s' does not exist"}
	subnetIDs   = idKind{"subnet", "InvalidSubnetID.NotFound", "InvalidSubnetID.Malformed", "The subnet ID '%s' does not exist"}
	vpcIDs      = idKind{"vpc", "InvalidVpcID.NotFound", "InvalidVpcID.Malformed", "The vpc ID '%s' does not exist"}
	taskIDs     = idKind{"replacevol", "InvalidReplaceRootVolumeTaskId.NotFound", "InvalidReplaceRootVolumeTaskId.Malformed", "The root volume replacement task '%s' does not exist"}
	spotIDs     = idKind{"sir", "InvalidSpotInstanceRequestID.NotFound", "InvalidSpotInstanceRequestID.Malformed", "The spot instance request ID '%s' does not exist"}
	keyPairIDs  = idKind{"key", "InvalidKeyPair.NotFound", "InvalidParameterValue", "The key pair '%s' does not exist"}
)

var idDigits = regexp.MustCompile(`^[a-z]+-[0-9a-f]{8}([0-9a-f]{9})?$`)

func (k idKind) check(id string) error {
	if len(id) > len(k.prefix) && id[:len(k.prefix)+1] == k.prefix+"-" && idDigits.MatchString(id) {
		return nil
	}
	if k.malformed == "InvalidParameterValue" {
		return invalid(id, "id", "Expected: '"+k.prefix+"-...'.")
	}
	return fail(k.malformed, "Invalid id: %q (expecting %q)", id, k.prefix+"-...")
}

func (k idKind) missing(id string) *apiError { return fail(k.notFound, k.message, id) }

// record is what every stored resource offers beyond state.Record.
type record interface {
	state.Record
	Common() *state.Meta
}

// find reads the resource that a client named, or answers as EC2 does for an
// ID that is malformed or unknown.
func find[T any, P interface {
	*T
	state.Record
}](tx *state.Tx, s state.Scope, k idKind, id string) (*T, error) {
	if err := k.check(id); err != nil {
		return nil, err
	}
	rec, err := state.Get[T, P](tx, s, id)
	if errors.Is(err, state.ErrNotFound) {
		return nil, k.missing(id)
	}
	return rec, err
}
