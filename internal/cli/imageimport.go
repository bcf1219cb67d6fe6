package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

// importOptions are the flags of "image import".
type importOptions struct {
	source   string
	checksum string
	user     string
	spec     cloud.ImportSpec
}

func newImageImport(a *App) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE|URL",
		Short: "Make an image of a disk image",
		Long: `Makes an image for the local cloud of a disk image in a file or on a web server:
raw, qcow2, vmdk, vhd, vhdx or vdi, also packed by xz, zstd or gzip. "-" reads
it from standard input.

--checksum is that of the file as it comes: sha256:DIGITS, sha512:DIGITS, or a
list of checksums (SHA512SUMS) that names the file, as an address or a file.
Nothing is registered before the file is whole and the sum is right. A download
that breaks off goes on from there, if it is the same file still. Interrupted or
killed, the command leaves nothing, and begins anew when it is repeated.`,
		Example: `  stead image import debian-12-genericcloud-amd64.qcow2 --user debian
  stead image import https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2 \
    --checksum https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS`,
		Args: exactly("FILE|URL"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.spec.Name, "name", "", "`NAME` of the image (default that of the file)")
	f.StringVar(&o.checksum, "checksum", "", "`SUM` of the file, or a list of sums: its address or file")
	f.StringVar(&o.spec.Architecture, "arch", "x86_64", "`ARCH` that it runs on: x86_64 or arm64")
	f.StringVar(&o.spec.BootMode, "boot-mode", "", "`MODE`: legacy-bios, uefi or uefi-preferred (default what the disk can)")
	f.StringVar(&o.user, "user", "", "login `NAME` of its servers")
	f.StringVar(&o.spec.RootDevice, "root-device", "/dev/xvda", "`DEVICE` of its root disk")
	_ = cmd.RegisterFlagCompletionFunc("arch", cobra.FixedCompletions([]string{"x86_64", "arm64"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("boot-mode", cobra.FixedCompletions([]string{"legacy-bios", "uefi", "uefi-preferred"}, cobra.ShellCompDirectiveNoFileComp))
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.source = args[0]
		return a.imageImport(ctx, o)
	})
}

func (a *App) imageImport(ctx context.Context, o importOptions) error {
	op := func(err error) error { return wrapImport(o.source, err) }
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if s.local == nil {
		return &server.Error{
			Code: server.KindUnsupported, Op: "import image", Resource: o.source,
			Reason: "context " + s.context.Name + " is not the local cloud",
			Remedy: "stead --context local image import, or put the file into S3, and run aws ec2 import-snapshot and aws ec2 register-image",
		}
	}
	if o.spec.Name == "" {
		o.spec.Name = importName(o.source)
	}
	if o.user != "" {
		o.spec.Tags = server.ImageUserTags(o.user)
	}
	o.spec.Description = "Imported from " + path.Base(o.source)
	if o.spec.Checksum, err = a.importChecksum(ctx, o); err != nil {
		return op(err)
	}
	source, size, err := a.openSource(ctx, o.source)
	if err != nil {
		return op(err)
	}
	defer func() { _ = source.Close() }() // read only
	o.spec.Size = size
	var id string
	if s.plan != nil {
		return op(s.planImport(ctx, o))
	}
	err = s.progress.run("import image "+o.spec.Name, func() (err error) {
		id, err = s.local.control.ImportImage(ctx, o.spec, source, s.progress.transfer("import image "+o.spec.Name))
		return err
	})
	if err != nil {
		return op(err)
	}
	made, err := s.servers.ResolveImage(ctx, id, "")
	s.close()
	if err != nil {
		return err
	}
	return a.print(made, func(w io.Writer) { writeImages(w, []server.Image{*made}) })
}

// planImport plans an import, which would be refused where the name is taken.
func (s *session) planImport(ctx context.Context, o importOptions) error {
	images, err := s.servers.ImageList(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		if i.Name == o.spec.Name {
			return &cloud.RefusedError{Code: "InvalidAMIName.Duplicate", Message: fmt.Sprintf("AMI name %s is already in use by AMI %s", i.Name, i.ID)}
		}
	}
	line := steadCommand{"image", "import", o.source, "--name", o.spec.Name, "--arch", o.spec.Architecture, "--root-device", o.spec.RootDevice}
	for _, f := range [][2]string{{"--boot-mode", o.spec.BootMode}, {"--checksum", o.spec.Checksum}, {"--user", o.user}} {
		if f[1] != "" {
			line = append(line, f[0], f[1])
		}
	}
	_ = s.planMade("ImportImage", line, o.spec.Name, o.spec.RootDevice)
	return nil
}

// wrapImport says what couldn't be imported; an error that knows itself passes.
func wrapImport(source string, err error) error {
	var refused *cloud.RefusedError
	if err == nil || server.KindOf(err) != server.KindFailed && !errors.As(err, &refused) {
		return err
	}
	e := &server.Error{Code: server.KindOf(err), Op: "import image", Resource: source, Err: err}
	switch {
	case refused != nil && e.Code == server.KindExists:
		e.Remedy = "choose another --name, or: stead image rm NAME"
	case strings.Contains(err.Error(), cloud.ErrChecksum.Error()):
		e.Remedy = "fetch the file again; if the sum differs still, it is not the file that was meant"
	case errors.Is(err, errBrokenOff):
		e.Remedy = "the same command again: it begins anew, and nothing is left of this try"
	}
	return e
}

// isURL tells an address from a file's name.
func isURL(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

var (
	importSuffix = regexp.MustCompile(`(\.(raw|img|qcow2|vmdk|vhdx?|vdi|xz|zst|gz))+$`)
	noImageName  = regexp.MustCompile(`[^A-Za-z0-9()\[\] ./'@_-]+`)
)

// importName derives an image's name from its file's.
func importName(source string) string {
	base, _, _ := strings.Cut(path.Base(source), "?")
	name := noImageName.ReplaceAllString(importSuffix.ReplaceAllString(base, ""), "-")
	if len(name) < 3 {
		name = "imported-" + strings.Trim(name, "-.")
	}
	return name
}

// openSource opens what is imported; size is 0 where it isn't known.
func (a *App) openSource(ctx context.Context, source string) (r io.ReadCloser, size int64, err error) {
	switch {
	case source == "-":
		return io.NopCloser(a.Stdin), 0, nil
	case isURL(source):
		d, err := openDownload(ctx, http.DefaultClient, source)
		if err != nil {
			return nil, 0, err
		}
		return d, d.size, nil
	}
	f, err := os.Open(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, &server.Error{Code: server.KindNotFound, Op: "import image", Resource: source, Reason: "there is no such file", Remedy: "give the path or the address of a disk image"}
	}
	if err != nil {
		return nil, 0, &server.Error{Code: server.KindUsage, Op: "import image", Resource: source, Err: err}
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = &server.Error{Code: server.KindUsage, Op: "import image", Resource: source, Reason: "it is a folder"}
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	if st.Mode().IsRegular() {
		size = st.Size()
	}
	return f, size, nil
}

// maxSums bounds a list of checksums.
const maxSums = 4 << 20

// importChecksum gives the sum that the file must have: as it was given, or as
// a list on a web server or in a file has it.
func (a *App) importChecksum(ctx context.Context, o importOptions) (string, error) {
	if o.checksum == "" || cloud.CheckChecksum(o.checksum) == nil {
		return o.checksum, nil
	}
	list, err := readSums(ctx, o.checksum)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &server.Error{
			Code: server.KindUsage, Op: "import image", Resource: o.source, Err: cloud.CheckChecksum(o.checksum),
			Remedy: "give sha256:DIGITS, sha512:DIGITS, or a list of sums: its address or file",
		}
	}
	if err != nil {
		return "", err
	}
	base, _, _ := strings.Cut(path.Base(filepath.ToSlash(o.source)), "?")
	sum := findSum(string(list), base)
	if sum == "" {
		return "", &server.Error{
			Code: server.KindNotFound, Op: "import image", Resource: o.source,
			Reason: fmt.Sprintf("the list %s has no sum for %s", o.checksum, base), Remedy: "give the sum itself: --checksum sha256:DIGITS",
		}
	}
	return sum, nil
}

// readSums reads a list of checksums from a web server or a file.
func readSums(ctx context.Context, source string) (list []byte, err error) {
	var r io.ReadCloser
	if isURL(source) {
		r, err = openDownload(ctx, http.DefaultClient, source)
	} else {
		r, err = os.Open(source)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // read only
	return io.ReadAll(io.LimitReader(r, maxSums))
}

// bsdSum is a line of a list in BSD's form: SHA256 (FILE) = DIGITS.
var bsdSum = regexp.MustCompile(`^SHA(?:256|512) \((.*)\) = ([0-9a-fA-F]+)$`)

// findSum finds a file's sum in a list, in the form that sha256sum writes or in
// BSD's; the length of the digits tells the kind. Empty where there is none.
func findSum(list, base string) string {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		digits, name, _ := strings.Cut(line, " ")
		name = strings.TrimPrefix(strings.TrimSpace(name), "*")
		if m := bsdSum.FindStringSubmatch(line); m != nil {
			name, digits = m[1], m[2]
		}
		if path.Base(name) != base {
			continue
		}
		for _, kind := range []string{"sha256:", "sha512:"} {
			if cloud.CheckChecksum(kind+digits) == nil {
				return kind + digits
			}
		}
	}
	return ""
}
