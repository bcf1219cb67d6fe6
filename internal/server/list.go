package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"
)

// List returns all servers that have disks or an instance, by name.
func (m *Manager) List(ctx context.Context) ([]Server, error) {
	all, err := m.ListAll(ctx)
	return slices.DeleteFunc(all, func(s Server) bool { return s.State == StateSnapshots }), err
}

// ListAll returns all servers by name, and with them those of which only
// snapshots are left. It takes a constant number of calls for every thousand
// records.
func (m *Manager) ListAll(ctx context.Context) ([]Server, error) {
	worlds, err := m.survey(ctx, "")
	if err != nil {
		return nil, wrap("list", "servers", err)
	}
	servers := []Server{}
	for _, w := range worlds {
		if !w.empty() || len(w.snapshots) > 0 {
			servers = append(servers, *m.view(w))
		}
	}
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	return servers, nil
}

// survey observes one server, or with name "" all of them, with their
// snapshots and what the endpoint's checks say.
func (m *Manager) survey(ctx context.Context, name string) (map[string]*world, error) {
	var (
		worlds    map[string]*world
		snapshots []types.Snapshot
	)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if worlds, err = m.observeAll(gctx, name); err == nil {
			m.checkHealth(gctx, slices.Collect(maps.Values(worlds))...)
		}
		return err
	})
	g.Go(func() (err error) {
		mine := filter("tag-key", tagServer)
		if name != "" {
			mine = filter("tag:"+tagServer, name)
		}
		snapshots, err = m.findSnapshots(gctx, mine)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		of := tagOf(s.Tags, tagServer)
		if worlds[of] == nil {
			worlds[of] = &world{name: of}
		}
		worlds[of].snapshots = append(worlds[of].snapshots, s)
	}
	return worlds, nil
}

// Get returns the server called name, or ErrNotFound.
func (m *Manager) Get(ctx context.Context, name string) (*Server, error) {
	w, err := m.world(ctx, "find", name)
	if err != nil {
		return nil, err
	}
	m.checkHealth(ctx, w)
	return m.view(w), nil
}

// world observes a server that must exist.
func (m *Manager) world(ctx context.Context, op, name string) (*world, error) {
	if err := CheckName(name); err != nil {
		return nil, wrap(op, "server "+name, err)
	}
	w, err := m.observe(ctx, name)
	if err != nil {
		return nil, wrap(op, "server "+name, err)
	}
	if w.empty() {
		return nil, &Error{Op: op, Resource: "server " + name, Reason: "there is no such server", Remedy: "stead ls", Code: KindNotFound}
	}
	return w, nil
}

// ConsoleOutput returns what the server's instance wrote to its console.
func (m *Manager) ConsoleOutput(ctx context.Context, name string) (string, error) {
	w, err := m.machine(ctx, "read the console of", name)
	if err != nil {
		return "", err
	}
	return m.ConsoleOf(ctx, aws.ToString(w.instance.InstanceId))
}

// ConsoleOf is ConsoleOutput by the instance's ID.
func (m *Manager) ConsoleOf(ctx context.Context, id string) (string, error) {
	out, err := m.ec2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &id})
	if err != nil {
		return "", wrap("read the console of", "instance "+id, err)
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
	if err != nil {
		return "", wrap("read the console of", "instance "+id, err)
	}
	return string(text), nil
}

// view turns what was observed into what people are shown.
func (m *Manager) view(w *world) *Server {
	f := w.facts()
	s := &Server{
		Name: w.name, State: StateDetached, Type: f.Type, ImageID: f.Image, Zone: f.Zone,
		Arch: f.Arch, BootMode: f.BootMode, Kernel: f.Kernel, Ramdisk: f.Ramdisk,
		KeyName: f.KeyName, ElasticIP: f.ElasticIP, Protected: true,
		Open: splitList(f.Open), From: splitList(f.From), Data: []Disk{},
		Rules: strings.Fields(f.Rules), Locked: f.Protected == "yes",
	}
	for _, a := range w.addresses {
		s.ElasticIP = cmp.Or(s.ElasticIP, aws.ToString(a.AllocationId))
		if w.instance == nil {
			s.PublicIP = cmp.Or(s.PublicIP, aws.ToString(a.PublicIp))
		}
	}
	s.showInstance(w.instance)
	if w.standIn != nil {
		s.State, s.InstanceID = StateRescuing, aws.ToString(w.standIn.InstanceId)
	}
	if repairing(w.root()).begun() {
		s.State = StateRepairing
	}
	kept := keptBy(w.instance)
	if root := w.root(); root != nil {
		s.Root = diskOf(root, kept)
		s.Root.Role = RoleRoot
		s.Root.Server = w.name
	}
	for _, v := range w.data() {
		d := diskOf(v, kept)
		d.Role, d.Server = RoleData, w.name
		s.Data = append(s.Data, d)
	}
	for _, d := range append([]Disk{s.Root}, s.Data...) {
		s.Protected = s.Protected && (d.VolumeID == "" || d.KeptOnTermination)
	}
	s.Spot = f.Market == marketSpot
	if w.instance != nil {
		s.Spot = isSpot(w.instance) // there may have been no room for it on spot
	}
	s.SSH = m.sshAddr(s, f.User)
	s.NewestSnapshot = w.newestSet()
	if w.empty() {
		s.State = StateSnapshots
		return s
	}
	s.Month = m.month(s)
	s.Warnings = w.warnings(s)
	return s
}

func (s *Server) showInstance(i *types.Instance) {
	if i == nil {
		return
	}
	s.State = string(stateOf(i))
	if interrupted(i) {
		s.State = StateInterrupted
	}
	s.InstanceID = aws.ToString(i.InstanceId)
	s.PublicIP = aws.ToString(i.PublicIpAddress)
	s.PrivateIP = aws.ToString(i.PrivateIpAddress)
	s.LaunchTime = utc(i.LaunchTime)
	s.Forwards = forwards(tagsOf(i.Tags))
}

// keptBy says of each volume plugged into i whether terminating i keeps it.
func keptBy(i *types.Instance) map[string]bool {
	kept := map[string]bool{}
	if i != nil {
		for _, bdm := range i.BlockDeviceMappings {
			if bdm.Ebs != nil {
				kept[aws.ToString(bdm.Ebs.VolumeId)] = !aws.ToBool(bdm.Ebs.DeleteOnTermination)
			}
		}
	}
	return kept
}

// diskOf shows a volume. A volume that no mapping speaks of is kept.
func diskOf(v *types.Volume, kept map[string]bool) Disk {
	id := aws.ToString(v.VolumeId)
	keeps, mapped := kept[id]
	for _, a := range v.Attachments {
		if !mapped && a.State != types.VolumeAttachmentStateDetached {
			keeps, mapped = !aws.ToBool(a.DeleteOnTermination), true
		}
	}
	tags := tagsOf(v.Tags)
	return Disk{
		VolumeID: id, Server: tags[tagServer], Role: tags[tagRole], Device: deviceOf(v),
		State: string(v.State), Type: string(v.VolumeType), SizeGiB: int(aws.ToInt32(v.Size)),
		IOPS: int(aws.ToInt32(v.Iops)), ThroughputMiBs: int(aws.ToInt32(v.Throughput)),
		Zone: aws.ToString(v.AvailabilityZone), InstanceID: attachedTo(v),
		KeptOnTermination: keeps || !mapped, SupersededBy: tags[tagSupersededBy], Created: utc(v.CreateTime),
		Raid: tags[tagRaid], Mount: tags[tagMount], FS: tags[tagFS],
	}
}

// warnings are what a person should know and mend.
func (w *world) warnings(s *Server) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if w.standIn != nil {
		add("a rescue isn't finished: run `stead rescue %s` again", w.name)
	}
	if repairing(w.root()).begun() {
		add("its root disk is out for repair: `stead repair %s` goes on, with --finish it is put back", w.name)
	}
	if w.instance != nil {
		switch verb, _, _ := strings.Cut(tagOf(w.instance.Tags, tagStep), " "); verb {
		case "":
		case stepRestore: // start would refuse it
			add("a restore isn't finished: run `stead restore %s` again", w.name)
		default:
			add("%s isn't finished: run the same command again, or `stead start %s`", verb, w.name)
		}
	}
	if root := w.root(); root != nil && hasTag(root.Tags, tagRenaming) {
		was := tagOf(root.Tags, tagRenaming)
		add("its renaming isn't finished: run `stead rename %s %s` again", was, w.name)
	}
	if to := w.movedTo(); to != "" {
		add("it has gone to context %s: when you are sure, `stead move %s --to %s --release` deletes what is here", to, w.name, to)
	}
	if w.cutOff() {
		add("its spot capacity was taken back: EC2 starts it again when there is some, or `stead rescue %s` brings it back at once", w.name)
	}
	list = append(list, w.ailments...)
	if s.Root.VolumeID == "" {
		add("no root disk found")
	}
	if !s.Protected {
		add("terminating instance %s by other means would delete a disk: `stead start %s` repairs it", s.InstanceID, w.name)
	}
	for _, d := range s.Data {
		if w.instance != nil && d.InstanceID == "" {
			add("data disk %s isn't plugged in: `stead volume attach %s %s`", d.VolumeID, d.VolumeID, w.name)
		}
	}
	for _, i := range w.extra {
		add("instance %s claims to be this server too", aws.ToString(i.InstanceId))
	}
	return list
}

func splitList(s string) []string {
	list := strings.Fields(s)
	if list == nil {
		list = []string{}
	}
	return list
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
