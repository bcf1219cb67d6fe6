package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepCreate and stepRescue are the verbs of stead:step.
const (
	stepCreate = "create"
	stepRescue = "rescue"
)

// Create makes a server and waits as far as asked. Repeated after an
// interruption with the same options it completes what was begun; a finished
// server of that name is ErrExists.
func (m *Manager) Create(ctx context.Context, o CreateOptions) (*Server, error) {
	s, err := m.create(ctx, o)
	return s, wrap("create", "server "+o.Name, err)
}

func (m *Manager) create(ctx context.Context, o CreateOptions) (*Server, error) {
	if err := o.normalize(); err != nil {
		return nil, err
	}
	w, err := m.observe(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	if err := createConflict(w, o.stepTag()); err != nil {
		return nil, err
	}
	f := w.facts()
	if w.instance == nil {
		if w.instance, f, err = m.launchServer(ctx, w, o); err != nil {
			return nil, err
		}
	}
	return m.finishCreate(ctx, w.instance, f, o)
}

// createConflict tells whether the name is free, or an interrupted create with
// the same options can go on.
func createConflict(w *world, step string) error {
	e := &Error{Code: KindExists, Remedy: "stead show " + w.name + ", or choose another name"}
	switch {
	case w.empty():
		return nil
	case w.standIn != nil:
		e.Reason, e.Remedy = "it exists, and a rescue isn't finished", "stead rescue "+w.name
	case w.instance == nil:
		e.Reason, e.Remedy = "its disks exist, without an instance", "stead rescue "+w.name
	case stateOf(w.instance) == types.InstanceStateNameShuttingDown:
		e.Reason, e.Remedy = "it is being terminated", "stead rescue "+w.name
	case tagOf(w.instance.Tags, tagStep) == step:
		return nil
	case strings.HasPrefix(tagOf(w.instance.Tags, tagStep), stepCreate+" "):
		e.Reason, e.Remedy = "an interrupted create had other options", "repeat it as it was, or stead terminate "+w.name
	default:
		e.Reason = "it exists"
	}
	return e
}

// launchServer makes what the instance needs and launches it. It returns the
// facts that the disks were born with too.
func (m *Manager) launchServer(ctx context.Context, w *world, o CreateOptions) (*types.Instance, facts, error) {
	arch := ""
	if !imageIDGrammar.MatchString(o.Image) {
		arch = m.archOf(ctx, o.Type)
	}
	image, alias, err := m.resolveImage(ctx, o.Image, arch)
	if err != nil {
		return nil, facts{}, err
	}
	f := o.facts(image, alias)
	tiny := m.local && alias != nil && alias.name == "tiny"
	in, err := m.launchInput(ctx, o, image, &f, tiny)
	if err != nil {
		return nil, f, err
	}
	var i *types.Instance
	err = m.step("launch instance", o.Name, func() error {
		i, err = m.launch(ctx, stepCreate, o.Name, w.ids(), in)
		return err
	})
	return i, f, m.roomToLaunch(ctx, o, f, err)
}

// roomToLaunch adds to a refusal for want of capacity where and as what there
// may be room.
func (m *Manager) roomToLaunch(ctx context.Context, o CreateOptions, f facts, err error) error {
	if KindOf(err) != KindCapacity || !strings.Contains(err.Error(), "InsufficientInstanceCapacity") {
		return err // a full quota is full everywhere
	}
	var ways []string
	if like := m.likeType(ctx, f, o.Type); len(like) > 0 {
		ways = append(ways, "--type "+strings.Join(like, " or "))
	}
	if zones := m.otherZones(ctx, o.Zone); len(zones) > 0 {
		ways = append(ways, "--zone "+strings.Join(zones, " or "))
	}
	if o.Spot {
		ways = append(ways, "without --spot")
	}
	if len(ways) == 0 {
		return err
	}
	return &Error{Code: KindCapacity, Err: err, Remedy: "try " + strings.Join(ways, ", ") + ", or later"}
}

// facts are what options and image say before there is an instance to ask.
func (o *CreateOptions) facts(image *types.Image, a *alias) facts {
	f := facts{
		Arch: string(image.Architecture), BootMode: string(image.BootMode), Kernel: aws.ToString(image.KernelId),
		Ramdisk: aws.ToString(image.RamdiskId), Virt: string(image.VirtualizationType), IMDS: string(image.ImdsSupport),
		Type: o.Type, Open: o.open(), From: o.from(), KeyName: o.KeyName,
		Image: aws.ToString(image.ImageId), User: o.User, Profile: o.Profile,
	}
	if o.Spot {
		f.Market = marketSpot
	}
	if a != nil {
		f.User = cmp.Or(f.User, a.user)
	}
	return f
}

func (m *Manager) launchInput(ctx context.Context, o CreateOptions, image *types.Image, f *facts, tiny bool) (*ec2.RunInstancesInput, error) {
	mappings, err := launchMappings(image, o.DiskGiB, o.Data)
	if err != nil {
		return nil, err
	}
	userData := o.UserData
	if setup := o.diskSetup(mappings, aws.ToString(image.RootDeviceName)); !setup.byImage(tiny) {
		if userData, err = bootData(setup, userData, !tiny); err != nil {
			return nil, err
		}
	}
	if len(o.Key) > 0 && o.KeyName == "" {
		if f.KeyName, err = m.ensureKey(ctx, o.Key); err != nil {
			return nil, err
		}
	}
	group, err := m.ensureGroup(ctx, o.Name, o.Open, o.From)
	if err != nil {
		return nil, err
	}
	if err := m.closePorts(ctx, group, o.Open, o.From); err != nil {
		return nil, err
	}
	in := runInput(*f, group, o.Zone)
	in.BlockDeviceMappings = mappings
	in.TagSpecifications = []types.TagSpecification{
		serverTags(o.Name).with(tagMap{tagStep: o.stepTag()}).spec(types.ResourceTypeInstance),
		serverTags(o.Name).with(f.tags()).spec(types.ResourceTypeVolume),
	}
	if o.Spot {
		onSpot(in, o.Name)
	}
	if len(userData) > 0 {
		in.UserData = aws.String(base64.StdEncoding.EncodeToString(userData))
	}
	return in, nil
}

// runInput is what every launch of a server's machine has in common.
func runInput(f facts, group, zone string) *ec2.RunInstancesInput {
	in := &ec2.RunInstancesInput{
		ImageId:                           aws.String(f.Image),
		InstanceType:                      types.InstanceType(f.Type),
		SecurityGroupIds:                  []string{group},
		DisableApiTermination:             aws.Bool(true),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorStop,
	}
	if f.KeyName != "" {
		in.KeyName = aws.String(f.KeyName)
	}
	if f.Profile != "" {
		in.IamInstanceProfile = profileSpec(f.Profile)
	}
	if zone != "" {
		in.Placement = &types.Placement{AvailabilityZone: aws.String(zone)}
	}
	return in
}

// profileSpec names an instance profile, by its ARN or its name.
func profileSpec(profile string) *types.IamInstanceProfileSpecification {
	if strings.HasPrefix(profile, "arn:") {
		return &types.IamInstanceProfileSpecification{Arn: &profile}
	}
	return &types.IamInstanceProfileSpecification{Name: &profile}
}

// finishCreate brings a launched instance to a finished server.
func (m *Manager) finishCreate(ctx context.Context, i *types.Instance, f facts, o CreateOptions) (*Server, error) {
	id := aws.ToString(i.InstanceId)
	var setup diskSetup
	if err := m.step("check that every disk stays", id, func() error {
		if err := m.tag(ctx, id, tagsOf(i.Tags).missing(serverTags(o.Name))); err != nil {
			return err
		}
		return m.settleWith(ctx, o.Name, id, f, func(i *types.Instance, volumes []types.Volume) func(string) tagMap {
			setup = o.bornSetup(i, volumes)
			return setup.tagsAt
		})
	}); err != nil {
		return nil, err
	}
	if err := m.guard(ctx, id); err != nil {
		return nil, err
	}
	if !o.NoAddress {
		if err := m.address(ctx, o.Name, id, true); err != nil {
			return nil, err
		}
	}
	if err := m.waitReady(ctx, o.Name, id, o.Wait); err != nil {
		return nil, err
	}
	if cmp.Or(o.Wait, WaitSSH) == WaitSSH && opensSSH(splitList(o.open())) {
		if err := m.finishDisks(ctx, o.Name, aws.ToString(i.ImageId), setup); err != nil {
			return nil, err
		}
	}
	return m.ready(ctx, stepCreate, o.Name, id, WaitNone)
}

// finishDisks makes sure that the data disks are set up, unless the image does
// that by itself before it lets anybody in.
func (m *Manager) finishDisks(ctx context.Context, name, imageID string, setup diskSetup) error {
	if m.guest == nil || len(setup.Disks) == 0 {
		return nil
	}
	if m.local && setup.plain() {
		image, err := m.imageByID(ctx, imageID)
		if err != nil && KindOf(err) != KindNotFound {
			return err
		}
		if a := m.aliasByName(image); a != nil && setup.byImage(a.name == "tiny") {
			return nil
		}
	}
	return m.verifyDisks(ctx, name, setup)
}

// address gives the server its elastic IP once it runs, and records it on the
// root disk.
func (m *Manager) address(ctx context.Context, name, instanceID string, allocate bool) error {
	i, err := m.waitInstance(ctx, instanceID, types.InstanceStateNameRunning)
	if err != nil {
		return err
	}
	allocation, err := m.ensureAddress(ctx, name, instanceID, allocate)
	if err != nil || allocation == "" {
		return err
	}
	root, err := m.volumeByID(ctx, rootVolumeID(i))
	if err != nil || root == nil {
		return err
	}
	return m.tag(ctx, rootVolumeID(i), tagsOf(root.Tags).missing(tagMap{tagElasticIP: allocation}))
}
