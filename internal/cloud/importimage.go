package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/image"
	"github.com/steadcloud/stead/internal/state"
)

// ImportSpec says what is to become of a disk image that is imported.
type ImportSpec struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Checksum of the file: sha256: or sha512: and digits in base 16. Empty:
	// not checked.
	Checksum     string            `json:"checksum,omitempty"`
	Architecture string            `json:"architecture,omitempty"` // x86_64 when empty
	BootMode     string            `json:"bootMode,omitempty"`     // what the disk can boot by when empty
	RootDevice   string            `json:"rootDevice,omitempty"`   // /dev/xvda when empty
	Tags         map[string]string `json:"tags,omitempty"`         // of the image and its snapshot
	Size         int64             `json:"size,omitempty"`         // of the file in bytes, for progress; 0 when unknown
}

// ErrChecksum says that a file isn't the one that was meant.
var ErrChecksum = image.ErrChecksum

// CheckChecksum tells whether text has the form of a checksum.
func CheckChecksum(text string) error { return image.CheckChecksum(text) }

// check refuses what could not be registered, before anything is read.
func (s *ImportSpec) check() error {
	s.Architecture, s.RootDevice = cmp.Or(s.Architecture, "x86_64"), cmp.Or(s.RootDevice, "/dev/xvda")
	switch {
	case !slices.Contains(types.ArchitectureValues("").Values(), types.ArchitectureValues(s.Architecture)):
		return fail("InvalidParameterValue", "architecture %q: use x86_64 or arm64", s.Architecture)
	case s.BootMode != "" && !slices.Contains(types.BootModeValues("").Values(), types.BootModeValues(s.BootMode)):
		return fail("InvalidParameterValue", "boot mode %q: use legacy-bios, uefi or uefi-preferred", s.BootMode)
	case !deviceName.MatchString(s.RootDevice):
		return fail("InvalidParameterValue", "root device %q: use /dev/xvda or /dev/sda1", s.RootDevice)
	case s.Checksum != "":
		return image.CheckChecksum(s.Checksum)
	}
	return nil
}

// ImportImage makes an image of a disk image: read to its end, verified, and
// registered. Nothing is left where that fails.
func (c *Cloud) ImportImage(ctx context.Context, s state.Scope, spec ImportSpec, source io.Reader, progress func(step string, done, total int64)) (string, error) {
	if err := spec.check(); err != nil {
		return "", err
	}
	if err := c.ensureRegion(s); err != nil {
		return "", err
	}
	err := c.db.View(func(tx *state.Tx) error { return checkImageName(tx, s, &spec.Name) })
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(c.dir.Scratch(), "import-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the next start empties scratch
	defer debug.FreeOSMemory()
	made, err := image.Import(ctx, image.ImportOptions{
		Dir: dir, Source: source, Checksum: spec.Checksum, Log: c.log,
		Progress: func(p image.Progress) {
			if p.Step == "receive" {
				p.Total = spec.Size
			}
			progress(p.Step, p.Done, p.Total)
		},
	})
	if err != nil {
		return "", err
	}
	progress("register the image", 0, 0)
	return c.registerDisk(ctx, s, made.Disk, "", &state.Image{
		Meta: state.Meta{Tags: spec.Tags}, Name: spec.Name, Description: spec.Description, Architecture: spec.Architecture, Virtualization: "hvm",
		BootMode: cmp.Or(spec.BootMode, made.BootMode), RootDevice: spec.RootDevice, ENA: true,
	})
}

// importImage serves an import: the body is the file, and the answer tells how
// it goes while the file is still on its way. A client that goes away ends it.
func (d *daemon) importImage(w http.ResponseWriter, r *http.Request) {
	var spec ImportSpec
	if err := json.Unmarshal([]byte(r.URL.Query().Get("spec")), &spec); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	send := eventSender(w)
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	d.builds.Add(1)
	defer d.builds.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	id, err := d.cloud.ImportImage(ctx, state.Scope{Account: d.cfg.Account, Region: DefaultRegion}, spec, r.Body,
		func(step string, done, total int64) { send(buildEvent{Step: step, Done: done, Total: total}) })
	if err != nil {
		send(failed(err))
		return
	}
	send(buildEvent{ImageID: id})
}

// sourceReader keeps the error of the file that is being sent: what the other
// end says of a file that was cut off is of no help.
type sourceReader struct {
	io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// ImportImage sends a disk image to the daemon and gives the ID of the image
// that is made of it.
func (c *Control) ImportImage(ctx context.Context, spec ImportSpec, source io.Reader, progress func(step string, done, total int64)) (string, error) {
	query, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	body := &sourceReader{Reader: source}
	u := url.URL{Scheme: "http", Host: "stead", Path: "/imports", RawQuery: url.Values{"spec": {string(query)}}.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), io.NopCloser(body))
	if err != nil {
		return "", err
	}
	if spec.Size > 0 {
		req.ContentLength = spec.Size
	}
	// What is refused at once isn't sent.
	req.Header.Set("Expect", "100-continue")
	resp, err := c.send(req)
	if err == nil {
		defer func() { _ = resp.Body.Close() }() // read to its end
		var id string
		if id, err = readBuild(resp.Body, progress); err == nil {
			return id, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case body.err != nil && (errors.Is(err, io.ErrUnexpectedEOF) || wentAway(err) || errors.Is(err, body.err)):
		err = fmt.Errorf("read the file: %w", body.err)
	}
	return "", err
}
