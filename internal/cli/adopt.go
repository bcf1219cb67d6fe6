package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

func newAdopt(a *App) *cobra.Command {
	var o server.AdoptOptions
	var data []string
	cmd := &cobra.Command{
		Use:   "adopt NAME [INSTANCE]",
		Short: "Make a durable server of an instance, or of loose disks",
		Long: `Makes a server of what exists, however it was made.

An instance becomes one in place, without a reboot: all its disks are kept on
termination from now on, it is protected, and tags say what a rescue needs to
know. What its firewall lets in is noted too, and its firewall stays.

Or --root and --data name disks that are plugged in nowhere, such as those of a
server whose tags were lost. "stead rescue NAME" then brings them to life. What
a disk can't say itself is asked of its tags and of the image that it was made
of, and can be said by --arch, --boot-mode, --type and --image.

Interrupted, the same command goes on from where it was.`,
		Example: `  stead adopt web i-0a1b2c3d4e5f60718
  stead adopt web i-0a1b2c3d4e5f60718 --user admin --address
  stead adopt db --root vol-0a1b2c3d4e5f60718 --data vol-0718293a4b5c6d7e8:sdf --image debian`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= 1 && len(args) <= 2 {
				return nil
			}
			return exactly("NAME", "INSTANCE")(cmd, args)
		},
		ValidArgsFunction: a.completeStrangers,
		Annotations:       map[string]string{resumable: "yes"},
	}
	f := cmd.Flags()
	f.StringVar(&o.User, "user", "", "`NAME` to log in as (default the image's)")
	f.BoolVar(&o.Address, "address", false, "give the instance a fixed address; its present one changes by that")
	f.StringVar(&o.Root, "root", "", "`VOLUME` that is the root disk")
	f.StringArrayVar(&data, "data", nil, "data disk, `VOLUME[:DEVICE]`; may be repeated")
	f.StringVar(&o.Image, "image", "", "image `ID` or alias that the root was made of")
	f.StringVar(&o.Type, "type", "", "instance `TYPE` (default the recorded one, else "+server.DefaultType+")")
	f.StringVar(&o.Arch, "arch", "", "`ARCHITECTURE` of the root: x86_64 or arm64")
	f.StringVar(&o.BootMode, "boot-mode", "", "how the root boots: `MODE` legacy-bios, uefi or uefi-preferred")
	_ = cmd.RegisterFlagCompletionFunc("arch", cobra.FixedCompletions([]string{"x86_64", "arm64"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("boot-mode", cobra.FixedCompletions([]string{"legacy-bios", "uefi", "uefi-preferred"}, cobra.ShellCompDirectiveNoFileComp))
	for _, flag := range []string{"root", "data"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.volumeNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		})
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.Name = args[0]
		if len(args) > 1 {
			o.InstanceID = args[1]
		}
		if err := checkAdopt(&o, data); err != nil {
			return err
		}
		return a.withServer(ctx, func(s *session) (*server.Server, error) { return s.servers.Adopt(ctx, o) })
	})
}

// checkAdopt reads the data disks and what else can be wrong.
func checkAdopt(o *server.AdoptOptions, data []string) error {
	for _, d := range data {
		id, device, _ := strings.Cut(d, ":")
		if device != "" && !isDevice(device) {
			return usage("data disk %q: want VOLUME[:DEVICE], such as vol-0a1b2c3d:sdf", d)
		}
		if device != "" {
			device = "/dev/" + strings.TrimPrefix(device, "/dev/")
		}
		o.Data = append(o.Data, server.AdoptDisk{VolumeID: id, Device: device})
	}
	if o.InstanceID != "" && (o.Arch != "" || o.BootMode != "" || o.Type != "" || o.Image != "") {
		return usage("--arch, --boot-mode, --type and --image are for loose disks: an instance says them itself")
	}
	for flag, ok := range map[string]bool{
		"--arch " + o.Arch:          o.Arch == "" || o.Arch == "x86_64" || o.Arch == "arm64" || o.Arch == "i386",
		"--boot-mode " + o.BootMode: o.BootMode == "" || o.BootMode == "legacy-bios" || o.BootMode == "uefi" || o.BootMode == "uefi-preferred",
	} {
		if !ok {
			return usage("%s: there is no such thing", flag)
		}
	}
	return nil
}
