package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/server"
)

// The images that a server is made of when none is named.
const (
	localImage  = "tiny"
	remoteImage = "debian"
)

type createOptions struct {
	name, image, instanceType, zone string
	disk                            string
	data                            []string
	key, user, userDataFile         string
	open, from                      string
	raid, mount, fs, profile        string
	noAddress, spot, yes, many      bool
	count                           int
	wait                            waitFlag
}

func newCreate(a *App) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a server",
		Long: `Makes a server: an instance whose disks are all kept when it is terminated,
protected against that, with a fixed address where the cloud has them, and a
firewall that lets in ssh and the ports that --open names.

Data disks are formatted once, if they are blank, and mounted by UUID with
nofail: at /data, /data2 and so on in the order of their devices, or where
--mount says; with --raid they are one. A rescue mounts them again and never
formats.

--key takes the file of your public key, or the name of a key pair that the
cloud has. --count N makes NAME-1 to NAME-N with the same options.

On AWS the price is shown before anything is made. At a terminal, more than
$100 a month is asked about; --yes doesn't ask.

Without --key it gets stead's own ssh key (made at first use), so that
"stead ssh NAME" just works. With --key PATH it gets that public key, and
"stead ssh" uses the private one next to it.

Interrupted, the same command goes on from where it was.`,
		Example: `  stead create web
  stead create db --image debian --type t3.small --disk 20 --data 100G --data 1T
  stead create db --data 100G:sdf:gp3 --data 100G:sdg:gp3 --raid 1 --mount /srv --fs xfs
  stead create worker --count 5 --spot
  stead create shop --open 80,443 --user-data setup.sh --key ~/.ssh/id_ed25519.pub`,
		Args:        exactly("NAME"),
		Annotations: map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.image, "image", "", "image `ID` or alias: tiny, debian, ubuntu, al2023 (default tiny locally, debian elsewhere)")
	f.StringVar(&o.instanceType, "type", "", "instance `TYPE` (default "+server.DefaultType+")")
	f.StringVar(&o.zone, "zone", "", "availability `ZONE`")
	f.StringVar(&o.disk, "disk", "", "`SIZE` of the root disk (default the image's)")
	f.StringArrayVar(&o.data, "data", nil, "a data disk, `SIZE[:DEVICE][:TYPE]`, such as 10, 1T or 100G:sdf:io2; may be repeated")
	f.StringVar(&o.raid, "raid", "", "join the data disks to one: RAID `LEVEL` 0, 1 or 10")
	f.StringVar(&o.mount, "mount", "", "`PATH` to mount the data disks at, or none to leave them blank (default /data)")
	f.StringVar(&o.fs, "fs", "", "file `SYSTEM` of the data disks: ext4 or xfs (default ext4)")
	f.StringVar(&o.key, "key", "", "`KEY` to log in with: the file of a public key, or the name of a key pair (default stead's own)")
	f.StringVar(&o.user, "user", "", "`NAME` to log in as (default the image's)")
	f.StringVar(&o.open, "open", "", "`PORTS` to open besides ssh: 80,443,8000-8010,53/udp")
	f.StringVar(&o.from, "from", "", "`CIDR`s that may reach the open ports (default anywhere)")
	f.StringVar(&o.userDataFile, "user-data", "", "`FILE` that the server runs or reads at its first boot, - for stdin")
	f.StringVar(&o.profile, "instance-profile", "", "instance `PROFILE`, by name or ARN: what the programs on the server may do at AWS")
	f.BoolVar(&o.spot, "spot", false, "a spot instance, by a persistent request; it is stopped when it is interrupted")
	f.BoolVar(&o.noAddress, "no-address", false, "no fixed address: a new one at each start")
	f.IntVar(&o.count, "count", 0, "make `N` servers, NAME-1 to NAME-N")
	addYesFlag(f, &o.yes)
	addWaitFlag(cmd, &o.wait)
	_ = cmd.RegisterFlagCompletionFunc("raid", cobra.FixedCompletions([]string{"0", "1", "10"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("fs", cobra.FixedCompletions([]string{"ext4", "xfs"}, cobra.ShellCompDirectiveNoFileComp))
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name, o.many = args[0], f.Changed("count")
		return a.create(ctx, o)
	})
}

func (a *App) create(ctx context.Context, o createOptions) error {
	opts, err := a.createOptions(o)
	if err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if opts.Wait, err = s.waitFor(o.wait); err != nil {
		return err
	}
	if opts.Image == "" {
		opts.Image = remoteImage
		if s.local != nil {
			opts.Image = localImage
		}
	}
	if err := s.ensureTiny(ctx, opts.Image); err != nil {
		return err
	}
	if err := a.showPrice(ctx, s, opts, o); err != nil {
		return err
	}
	if o.many { // of --count 0 too: it asks for none
		return a.createMany(ctx, s, opts, o.count)
	}
	made, err := s.servers.Create(ctx, opts)
	s.close()
	if err != nil {
		return err
	}
	if err := a.forgetHostKeys(s.context, made); err != nil {
		return err
	}
	return a.print(made, func(w io.Writer) {
		a.writeServer(w, made)
		a.writeCreated(w, s, made)
	})
}

// createOptions reads everything that can be wrong before anything is made.
func (a *App) createOptions(o createOptions) (server.CreateOptions, error) {
	opts := server.CreateOptions{
		Name: o.name, Image: o.image, Type: o.instanceType, Zone: o.zone, User: o.user,
		NoAddress: o.noAddress, Raid: o.raid, Mount: o.mount, FS: o.fs, Profile: o.profile, Spot: o.spot,
	}
	if err := server.CheckName(o.name); err != nil {
		return opts, err
	}
	var err error
	if o.disk != "" {
		if opts.DiskGiB, err = parseSize(o.disk); err != nil {
			return opts, err
		}
	}
	if opts.Data, err = parseDataSpecs(o.data); err != nil {
		return opts, err
	}
	// ssh is always among them: a server that nobody can log in to is none.
	if opts.Open, err = server.ParsePorts("22," + o.open); err != nil {
		return opts, err
	}
	if opts.From, err = server.ParseFrom(o.from); err != nil {
		return opts, err
	}
	if opts.UserData, err = a.readUserData(o.userDataFile); err != nil {
		return opts, err
	}
	if isPairName(o.key) {
		opts.KeyName = o.key
		return opts, nil
	}
	key, err := a.createKey(o.key)
	if err != nil {
		return opts, err
	}
	opts.Key = key.AuthorizedLine()
	return opts, nil
}

// isPairName tells the name of a key pair from a file: no file is there, and it
// doesn't look like the path of one.
func isPairName(key string) bool {
	if key == "" || strings.ContainsAny(key, "/~") || strings.HasSuffix(key, ".pub") {
		return false
	}
	_, err := os.Stat(key)
	return errors.Is(err, fs.ErrNotExist)
}

func (a *App) createKey(path string) (sshclient.Key, error) {
	if path == "" {
		dir, err := a.configDir()
		if err != nil {
			return sshclient.Key{}, err
		}
		if a.plan != nil {
			return sshclient.PlanKey(dir)
		}
		return sshclient.OwnKey(dir)
	}
	key, err := sshclient.ReadKey(path)
	if err != nil {
		return key, &server.Error{
			Code: server.KindUsage, Op: "use key", Resource: path, Err: err,
			Remedy: "ssh-keygen -t ed25519, or leave --key away",
		}
	}
	return key, nil
}

func (a *App) readUserData(path string) ([]byte, error) {
	var data []byte
	var err error
	switch path {
	case "":
		return nil, nil
	case "-":
		data, err = io.ReadAll(a.Stdin)
	default:
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, &server.Error{Code: server.KindUsage, Op: "read user data", Resource: path, Err: err}
	}
	return data, nil
}

// ensureTiny builds an image of the local cloud's own the first time that it is
// asked for.
func (s *session) ensureTiny(ctx context.Context, image string) error {
	if s.local == nil || !slices.Contains(builtImages(), image) {
		return nil
	}
	_, err := s.servers.ResolveImage(ctx, image, "")
	if !errors.Is(err, server.ErrNotFound) {
		return err
	}
	_, err = s.build(ctx, image)
	return err
}

// build has the local cloud build an image and returns its ID.
func (s *session) build(ctx context.Context, name string) (string, error) {
	if s.plan != nil {
		return s.planImage(name), nil
	}
	var id string
	err := s.progress.run("build image "+name, func() (err error) {
		id, err = s.local.control.BuildImage(ctx, name, s.progress.build(name))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	return id, nil
}

// forgetHostKeys drops what is known of an earlier server of that name, whose
// keys went with its disks.
func (a *App) forgetHostKeys(c contexts.Context, made *server.Server) error {
	dir, err := a.configDir()
	if err != nil || a.plan != nil {
		return err
	}
	hosts, alias := sshclient.OpenKnownHosts(dir), hostAlias(c, made.Name)
	note, err := hosts.Note(alias)
	if err != nil || note == made.Root.VolumeID {
		return err // a create that went on after an interruption
	}
	if known, err := hosts.Has(alias); err != nil || !known {
		return err
	}
	return hosts.Replace(alias, "", nil)
}
