package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepResize marks an instance whose type is being changed: "resize RAN OLD
// NEW", where RAN is running or stopped and says what it was before.
const stepResize = "resize"

// ResizeOptions says what of a server shall be another size.
type ResizeOptions struct {
	Type    string // instance type; "" leaves it
	DiskGiB int    // the root disk's size; 0 leaves it
	Data    []DiskSize
	Wait    WaitFor
}

// DiskSize is the size that a data disk shall have.
type DiskSize struct {
	Disk string // device or volume ID; "" is the only data disk
	GiB  int
}

// ResizeResult is a server and what has changed of it.
type ResizeResult struct {
	Server  *Server `json:"server"`
	OldType string  `json:"old_type,omitempty"` // "" when the type was left
	Disks   []Grown `json:"disks"`
}

// Resize changes a server's instance type and enlarges its disks, with the
// file systems on them. Interrupted and repeated it goes on from there.
func (m *Manager) Resize(ctx context.Context, name string, o ResizeOptions) (*ResizeResult, error) {
	r, err := m.resize(ctx, name, o)
	return r, wrap("resize", "server "+name, err)
}

func (m *Manager) resize(ctx context.Context, name string, o ResizeOptions) (*ResizeResult, error) {
	w, err := m.world(ctx, "resize", name)
	if err != nil {
		return nil, err
	}
	if err := w.atRest(); err != nil {
		return nil, err
	}
	// All that can be wrong is found before anything is changed.
	plan, err := w.planGrowth(o)
	if err != nil {
		return nil, err
	}
	result := &ResizeResult{Disks: []Grown{}}
	if o.Type != "" {
		if result.OldType, err = m.resizeType(ctx, w, o); err != nil {
			return nil, err
		}
	}
	for _, d := range plan {
		grown, err := m.growDisk(ctx, name, d.Disk, d.GiB)
		if err != nil {
			return nil, err
		}
		result.Disks = append(result.Disks, *grown)
	}
	result.Server, err = m.Get(ctx, name)
	return result, err
}

// atRest tells that nothing is under way that moves the server's disks about.
func (w *world) atRest() error {
	switch {
	case w.standIn != nil:
		return &Error{Code: KindExists, Reason: "a rescue isn't finished", Remedy: "stead rescue " + w.name}
	case w.root() == nil:
		return &Error{Code: KindNotFound, Reason: "it has no root disk", Remedy: "stead show " + w.name}
	case stateOf(w.instance) == types.InstanceStateNameShuttingDown:
		return &Error{Code: KindExists, Reason: "it is being terminated", Remedy: "stead rescue " + w.name}
	}
	return w.underRepair()
}

// resizeType gives the server another instance type, and returns the one that
// it had. A server without an instance gets it in its next life.
func (m *Manager) resizeType(ctx context.Context, w *world, o ResizeOptions) (old string, err error) {
	f := w.facts()
	if w.instance == nil {
		if f.Type == o.Type {
			return f.Type, nil
		}
		if err := m.checkType(ctx, f, o.Type); err != nil {
			return "", err
		}
		return f.Type, m.tag(ctx, aws.ToString(w.root().VolumeId), tagMap{tagType: o.Type})
	}
	step := resizeStep(w.instance)
	if step.begun && string(w.instance.InstanceType) == o.Type {
		old = step.old
	} else {
		old = string(w.instance.InstanceType)
	}
	if old == o.Type && !step.begun {
		return old, nil
	}
	if err := m.checkResize(ctx, w, f, o.Type); err != nil {
		return "", err
	}
	return old, m.changeType(ctx, w, step, old, o)
}

// checkResize tells what forbids another type before the server is stopped.
func (m *Manager) checkResize(ctx context.Context, w *world, f facts, want string) error {
	if f.Market == marketSpot && (w.instance == nil || isSpot(w.instance)) {
		return &Error{
			Code: KindUnsupported, Reason: "it is a spot instance, whose type can't change",
			Remedy: fmt.Sprintf("stead terminate %s, then stead rescue %s --type %s", w.name, w.name, want),
		}
	}
	return m.checkType(ctx, f, want)
}

// stepOfResize is what the mark of an unfinished resize says.
type stepOfResize struct {
	begun, ran bool
	old        string
}

func resizeStep(i *types.Instance) stepOfResize {
	words := strings.Fields(tagOf(i.Tags, tagStep))
	if len(words) != 4 || words[0] != stepResize {
		return stepOfResize{ran: isUp(i)}
	}
	return stepOfResize{begun: true, ran: words[1] == StateRunning, old: words[2]}
}

// isUp tells an instance that runs or is about to.
func isUp(i *types.Instance) bool {
	return stateOf(i) == types.InstanceStateNameRunning || stateOf(i) == types.InstanceStateNamePending
}

// changeType stops the instance if it runs, changes its type and starts it
// again. Where there is no room for the new type it gets the old one back.
func (m *Manager) changeType(ctx context.Context, w *world, step stepOfResize, old string, o ResizeOptions) error {
	id := aws.ToString(w.instance.InstanceId)
	ran := map[bool]string{true: StateRunning, false: StateStopped}[step.ran]
	mark := tagMap{tagStep: strings.Join([]string{stepResize, ran, old, o.Type}, " ")}
	if err := m.tag(ctx, id, tagsOf(w.instance.Tags).missing(mark)); err != nil {
		return err
	}
	if string(w.instance.InstanceType) != o.Type {
		if err := m.stopInstance(ctx, id, stateOf(w.instance), false); err != nil {
			return err
		}
		if err := m.setType(ctx, id, o.Type); err != nil {
			return m.typeRefused(ctx, w, step, old, o.Type, err)
		}
	}
	// The tags of the disks say the same as the instance.
	if err := m.settle(ctx, w.name, id, w.facts()); err != nil {
		return err
	}
	if !step.ran {
		return m.untag(ctx, id, tagStep)
	}
	if err := m.startAgain(ctx, id); err != nil {
		return m.typeRefused(ctx, w, step, old, o.Type, err)
	}
	_, err := m.ready(ctx, stepResize, w.name, id, o.Wait)
	return err
}

// startAgain starts an instance that may be started already, and waits until
// it is known whether there was room for it.
func (m *Manager) startAgain(ctx context.Context, id string) error {
	i, err := m.instanceByID(ctx, id)
	if err != nil {
		return err
	}
	if stateOf(i) == types.InstanceStateNameStopped {
		if err := m.startInstance(ctx, id); err != nil {
			return err
		}
	}
	_, err = m.waitInstance(ctx, id, types.InstanceStateNameRunning)
	return err
}

// setType changes a stopped instance's type, and sees that it has changed.
func (m *Manager) setType(ctx context.Context, id, want string) error {
	return m.step("change type", id+" to "+want, func() error {
		_, err := m.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
			InstanceId: &id, InstanceType: &types.AttributeValue{Value: &want},
		})
		if err != nil {
			return wrap("change the type of", "instance "+id, err)
		}
		return m.poll(ctx, settleTime, "to be of type "+want, "instance "+id, func(ctx context.Context) (bool, error) {
			i, err := m.instanceByID(ctx, id)
			return err == nil && i != nil && string(i.InstanceType) == want, err
		})
	})
}

// typeRefused deals with a type that the cloud doesn't give: the instance gets
// its old one back and runs as before, and the error says so. Other failures
// are left for the same command to go on from.
func (m *Manager) typeRefused(ctx context.Context, w *world, step stepOfResize, old, want string, cause error) error {
	switch KindOf(cause) {
	case KindCapacity, KindUsage, KindUnsupported, KindExists:
	default:
		return cause
	}
	id := aws.ToString(w.instance.InstanceId)
	i, err := m.waitInstance(ctx, id, types.InstanceStateNameStopped)
	if err == nil && string(i.InstanceType) != old {
		err = m.setType(ctx, id, old)
	}
	if err == nil {
		err = m.settle(ctx, w.name, id, w.facts())
	}
	if err == nil && step.ran {
		err = m.startAgain(ctx, id)
	}
	if err == nil {
		err = m.untag(ctx, id, tagStep)
	}
	if err != nil {
		return &Error{
			Code: KindPartial, Reason: fmt.Sprintf("the cloud refused %s, and then to go back to %s", want, old),
			Remedy: "stead start " + w.name + ", when there is room again", Err: errors.Join(cause, err),
		}
	}
	e := &Error{Code: KindOf(cause), Reason: fmt.Sprintf("the cloud refused %s; the server has %s again, as before", want, old), Err: cause}
	if e.Code == KindCapacity {
		e.Remedy = "try another --type, or later"
		if others := m.likeType(ctx, w.facts(), want); len(others) > 0 {
			e.Remedy = "try --type " + strings.Join(others, " or ") + ", or later"
		}
	}
	return e
}

// checkType tells whether a server's disks can run on an instance type, as far
// as the endpoint says what its types are.
func (m *Manager) checkType(ctx context.Context, f facts, want string) error {
	t, err := m.typeInfo(ctx, want)
	if err != nil || t == nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return &Error{Code: KindUsage, Reason: fmt.Sprintf(format, args...), Remedy: "choose another --type"}
	}
	if p := t.ProcessorInfo; p != nil && f.Arch != "" && !slices.Contains(p.SupportedArchitectures, types.ArchitectureType(f.Arch)) {
		return bad("type %s runs %v, the server's disks need %s", want, p.SupportedArchitectures, f.Arch)
	}
	if f.Virt != "" && len(t.SupportedVirtualizationTypes) > 0 && !slices.Contains(t.SupportedVirtualizationTypes, types.VirtualizationType(f.Virt)) {
		return bad("type %s has no %s virtualization, which the server's disks need", want, f.Virt)
	}
	if (f.BootMode == "uefi" || f.BootMode == "legacy-bios") && len(t.SupportedBootModes) > 0 && !slices.Contains(t.SupportedBootModes, types.BootModeType(f.BootMode)) {
		return bad("type %s doesn't boot by %s, which the server's disks need", want, f.BootMode)
	}
	if n := t.NetworkInfo; n != nil && n.EnaSupport == types.EnaSupportRequired && f.Ena == "no" {
		e := bad("type %s needs the ENA network driver, and the server isn't known to have it", want).(*Error) //nolint:errorlint // it was just made
		e.Remedy = "install the driver, then: aws ec2 modify-instance-attribute --ena-support --instance-id " + cmp.Or(f.Instance, "ID")
		return e
	}
	return nil
}

// typeInfo describes an instance type; nil where the endpoint doesn't tell.
func (m *Manager) typeInfo(ctx context.Context, name string) (*types.InstanceTypeInfo, error) {
	out, err := m.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{types.InstanceType(name)}})
	switch {
	case unsupported(err):
		return nil, nil
	case err != nil:
		return nil, wrap("describe", "instance type "+name, err)
	case len(out.InstanceTypes) == 0:
		return nil, &Error{Code: KindUsage, Reason: "the cloud has no instance type " + name, Remedy: "choose another --type"}
	}
	return &out.InstanceTypes[0], nil
}

// maxAlternatives is how many types an error proposes.
const maxAlternatives = 3

// likeType finds types with the same processors and memory as one for which
// there is no room, and that the server's disks can run on.
func (m *Manager) likeType(ctx context.Context, f facts, want string) []string {
	t, err := m.typeInfo(ctx, want)
	if err != nil || t == nil || t.VCpuInfo == nil || t.MemoryInfo == nil {
		return nil
	}
	pages := ec2.NewDescribeInstanceTypesPaginator(m.ec2, &ec2.DescribeInstanceTypesInput{Filters: []types.Filter{
		filter("vcpu-info.default-vcpus", fmt.Sprint(aws.ToInt32(t.VCpuInfo.DefaultVCpus))),
		filter("memory-info.size-in-mib", fmt.Sprint(aws.ToInt64(t.MemoryInfo.SizeInMiB))),
		filter("processor-info.supported-architecture", cmp.Or(f.Arch, archX86)),
		filter("current-generation", "true"),
	}})
	var names []string
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil // a proposal less
		}
		for _, other := range page.InstanceTypes {
			if name := string(other.InstanceType); name != want && name != f.Type {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxAlternatives)]
}
