package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

const aboutDisk = "Debian's `fio` (libaio, 16 requests in flight, O_DIRECT in the guest) on a 1 GiB data disk that is filled, " +
	"in a tiny guest that stead runs, and in the same guest started by hand on the very same files by the plain QEMU command " +
	"line, turn by turn. QEMU reads and writes through the host's page cache on both sides; the host's own `fio` does so too, on the same file. " +
	"Without KVM the guest's processor is emulated, and that is what the distance to the host shows."

// fioDir is where the guest has fio and the libraries that it needs.
const fioDir = "/opt/fio"

// fioJob is a kind of load.
type fioJob struct {
	name, what string
	rw, size   string
	unit       unit
}

func fioJobs() []fioJob {
	return []fioJob{
		{"randread", "4 KiB random read", "randread", "4k", iops},
		{"randwrite", "4 KiB random write", "randwrite", "4k", iops},
		{"read", "1 MiB sequential read", "read", "1m", mibPerSecond},
		{"write", "1 MiB sequential write", "write", "1m", mibPerSecond},
	}
}

// fioOptions are the options of one run of all jobs, one after the other.
func fioOptions(file string, direct bool) []string {
	options := []string{
		"--output-format=json", "--ioengine=libaio", "--iodepth=16", "--filename=" + file, "--size=1g",
		"--time_based=1", "--ramp_time=1", "--runtime=4", "--clocksource=clock_gettime", "--allow_mounted_write=0",
		"--invalidate=0", // on the host, fio would drop the cache that both guests read from
	}
	if direct {
		options = append(options, "--direct=1")
	}
	for _, j := range fioJobs() {
		options = append(options, "--name="+j.name, "--stonewall", "--rw="+j.rw, "--bs="+j.size)
	}
	return options
}

// readFio takes each job's figure from fio's report.
func readFio(report string) (map[string]float64, error) {
	_, report, found := strings.Cut(report, "{") // a warning may stand before it
	var r struct {
		Jobs []struct {
			Name        string `json:"jobname"`
			Read, Write struct {
				IOPS float64 `json:"iops"`
			}
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte("{"+report), &r); err != nil || !found || len(r.Jobs) != len(fioJobs()) {
		return nil, fmt.Errorf("fio's report: %d jobs (%w): %.300s", len(r.Jobs), err, report)
	}
	figures := map[string]float64{}
	for _, j := range r.Jobs {
		// A request of the sequential jobs is 1 MiB.
		figures[j.Name] = j.Read.IOPS + j.Write.IOPS
	}
	return figures, nil
}

// disk compares a guest's disk with the same by hand, and with the file.
func disk(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("auto")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	d, err := s.prepareDisk(ctx, b)
	if err != nil {
		return nil, err
	}
	sides := []func(context.Context) (string, error){d.inStead, d.inHand, d.onHost}
	results := make([]map[string]series, len(sides))
	for n := range b.repeats(5) {
		for i, side := range sides {
			if err := d.level(ctx); err != nil {
				return nil, err
			}
			report, err := side(ctx)
			if err != nil {
				return nil, err
			}
			figures, err := readFio(report)
			if err != nil {
				return nil, err
			}
			if results[i] == nil {
				results[i] = map[string]series{}
			}
			for job, v := range figures {
				results[i][job] = append(results[i][job], v)
			}
		}
		b.say("round %d: stead %.0f, by hand %.0f, host %.0f (4 KiB random read)", n+1,
			results[0]["randread"][n], results[1]["randread"][n], results[2]["randread"][n])
	}
	for _, j := range fioJobs() {
		rows = append(rows, row{
			what: j.what, unit: j.unit, ours: results[0][j.name], against: "QEMU by hand", theirs: results[1][j.name], target: ratioAtLeast(0.95),
		}, row{what: j.what, unit: j.unit, ours: results[0][j.name], against: "host file", theirs: results[2][j.name]})
	}
	return rows, nil
}

// guestDisk is a server with a data disk to measure.
type guestDisk struct {
	s          *scratch
	name       string
	args       qemuArgs
	dir        string
	root, data string // files
	fio        string // the command in the guest
}

// prepareDisk makes a server with fio and a filled data disk, and stops it.
func (s *scratch) prepareDisk(ctx context.Context, b *bench) (*guestDisk, error) {
	d := &guestDisk{s: s, name: "disk", dir: b.dir}
	if _, _, err := s.run(ctx, "create", d.name, "-q"); err != nil {
		return nil, err
	}
	var err error
	if d.args, err = s.argsOf(ctx, d.name); err != nil {
		return nil, err
	}
	b.say("copying fio into the guest")
	if err := d.copyFio(ctx); err != nil {
		return nil, err
	}
	if err := d.addData(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// addData gives the server a data disk full of random bytes, so that the guest
// leaves it alone and no block is a hole, and stops it.
func (d *guestDisk) addData(ctx context.Context) error {
	client, _, err := d.s.client(ctx)
	if err != nil {
		return err
	}
	instances, err := client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		return err
	}
	instance := instances.Reservations[0].Instances[0]
	d.root = d.s.volumeFile(*instance.BlockDeviceMappings[0].Ebs.VolumeId)
	volume, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: instance.Placement.AvailabilityZone, Size: aws.Int32(1)})
	if err != nil {
		return err
	}
	if err := waitVolume(ctx, client, *volume.VolumeId); err != nil {
		return err
	}
	d.data = d.s.volumeFile(*volume.VolumeId)
	fill := exec.CommandContext(ctx, "dd", "if=/dev/urandom", "of="+d.data, "bs=1M", "count=1024", "conv=notrunc,fsync", "status=none")
	if out, err := fill.CombinedOutput(); err != nil {
		return fmt.Errorf("fill the data disk: %w: %s", err, out)
	}
	if _, err := client.AttachVolume(ctx, &ec2.AttachVolumeInput{
		InstanceId: instance.InstanceId, VolumeId: volume.VolumeId, Device: aws.String("/dev/sdf"),
	}); err != nil {
		return err
	}
	_, _, err = d.s.run(ctx, "stop", d.name, "-q")
	return err
}

// copyFio sends Debian's fio and the libraries that it needs into the guest.
func (d *guestDisk) copyFio(ctx context.Context) error {
	fio, err := exec.LookPath("fio")
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", fio).Output()
	if err != nil {
		return fmt.Errorf("libraries of fio: %w", err)
	}
	files := slices.Compact(slices.Sorted(slices.Values(regexp.MustCompile(`/\S+`).FindAllString(string(out), -1))))
	var folders []string
	loader := ""
	for _, f := range files {
		folders = append(folders, fioDir+filepath.Dir(f))
		if strings.Contains(filepath.Base(f), "ld-linux") {
			loader = fioDir + f
		}
	}
	slices.Sort(folders)
	d.fio = fmt.Sprintf("%s --library-path %s %s", loader, strings.Join(slices.Compact(folders), ":"), fioDir+fio)
	pack := exec.CommandContext(ctx, "tar", append([]string{"-c", "-h", "-f", "-", "--absolute-names", fio}, files...)...)
	var complaint bytes.Buffer
	pack.Stderr = &complaint
	tar, err := pack.StdoutPipe()
	if err != nil {
		return err
	}
	if err := pack.Start(); err != nil {
		return err
	}
	_, _, err = d.s.feed(ctx, io.Reader(tar), "exec", d.name, "--", "mkdir -p "+fioDir+" && tar -x -C "+fioDir+" -f -")
	if werr := pack.Wait(); werr != nil && err == nil {
		err = fmt.Errorf("pack fio: %w: %s", werr, complaint.Bytes())
	}
	return err
}

func (d *guestDisk) command() string {
	return d.fio + " " + strings.Join(fioOptions("/dev/vdb", true), " ")
}

func (d *guestDisk) inStead(ctx context.Context) (report string, err error) {
	if _, _, err := d.s.run(ctx, "start", d.name, "-q"); err != nil {
		return "", err
	}
	report, _, err = d.s.run(ctx, "exec", d.name, "--", d.command())
	if _, _, e := d.s.run(ctx, "stop", d.name, "-q"); err == nil {
		err = e
	}
	return report, err
}

func (d *guestDisk) inHand(ctx context.Context) (report string, err error) {
	guest, err := d.args.start(ctx, d.dir, d.root, d.data)
	if err != nil {
		return "", err
	}
	if _, err := guest.waitSSH(ctx); err != nil {
		return "", errors.Join(err, guest.kill())
	}
	report, err = guest.ssh(ctx, filepath.Join(d.s.config(), "id_ed25519"), d.command())
	if _, e := guest.powerOff(ctx); err == nil {
		err = e
	}
	return report, err
}

func (d *guestDisk) onHost(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "fio", fioOptions(d.data, false)...).Output()
	if err != nil {
		return "", fmt.Errorf("fio on the host: %w", err)
	}
	return string(out), nil
}

// level gives every turn the same start: nothing is left to be written, and
// the whole file is in the host's cache.
func (d *guestDisk) level(ctx context.Context) error {
	for _, command := range [][]string{{"sync", d.data}, {"dd", "if=" + d.data, "of=/dev/null", "bs=1M", "status=none"}} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command[0], err, out)
		}
	}
	return nil
}
