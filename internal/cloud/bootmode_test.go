package cloud

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/uefivars"
)

// withoutOVMF is a machine on which UEFI's firmware isn't installed.
type withoutOVMF struct{ noMachines }

func (withoutOVMF) firmware() (string, error) {
	return "", fmt.Errorf("%w (looked in /nowhere)", machine.ErrNoFirmware)
}

// bootImage registers an image of a boot mode.
func bootImage(t *testing.T, client *ec2.Client, snap, name string, change func(*ec2.RegisterImageInput)) (string, error) {
	t.Helper()
	in := &ec2.RegisterImageInput{
		Name: &name, RootDeviceName: aws.String("/dev/sda1"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		BlockDeviceMappings: []types.BlockDeviceMapping{ebs("/dev/sda1", types.EbsBlockDevice{SnapshotId: &snap})},
	}
	change(in)
	out, err := client.RegisterImage(t.Context(), in)
	if err != nil {
		return "", err
	}
	return *out.ImageId, nil
}

// An instance boots as EC2 makes it of image and type, and says so: never by
// BIOS in silence.
func TestBootMode(t *testing.T) {
	c, client := newTestCloud(t)
	with := c.hyper
	snap := makeSnapshot(t, c, client, "root")
	ids := map[string]string{}
	for _, mode := range []string{"", "legacy-bios", "uefi", "uefi-preferred"} {
		id, err := bootImage(t, client, snap, "mode "+mode, func(in *ec2.RegisterImageInput) { in.BootMode = types.BootModeValues(mode) })
		if err != nil {
			t.Fatal(err)
		}
		ids[mode] = id
	}
	for _, tc := range []struct {
		image, kind string
		ovmf        bool
		want        string // a mode, or an error's code
	}{
		{"", "t3.nano", true, "legacy-bios"},
		{"legacy-bios", "t3.nano", true, "legacy-bios"},
		{"uefi", "t3.nano", true, "uefi"},
		{"uefi-preferred", "t3.nano", true, "uefi"},
		{"uefi-preferred", "t2.nano", true, "legacy-bios"},
		{"uefi", "t2.nano", true, "InvalidParameterValue"},
		{"uefi-preferred", "t3.nano", false, "legacy-bios"},
		{"uefi", "t3.nano", false, "UnsupportedOperation"},
	} {
		c.hyper = with
		if !tc.ovmf {
			c.hyper = withoutOVMF{with.(noMachines)}
		}
		out, err := client.RunInstances(t.Context(), &ec2.RunInstancesInput{
			ImageId: aws.String(ids[tc.image]), InstanceType: types.InstanceType(tc.kind), MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		})
		if err != nil {
			wantCode(t, err, tc.want)
			if !tc.ovmf && !strings.Contains(err.Error(), "apt-get install ovmf") {
				t.Errorf("it doesn't say what to install: %v", err)
			}
			continue
		}
		i := waitInstance(t, client, *out.Instances[0].InstanceId, types.InstanceStateNameRunning)
		if string(i.CurrentInstanceBootMode) != tc.want || string(i.BootMode) != tc.image {
			t.Errorf("image %q on %s, OVMF %v: it boots by %q of %q, want %q", tc.image, tc.kind, tc.ovmf, i.CurrentInstanceBootMode, i.BootMode, tc.want)
		}
	}
}

// Another type is another firmware: what counts is the next start.
func TestBootModeOfTheNextStart(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	snap := makeSnapshot(t, c, client, "root")
	image, err := bootImage(t, client, snap, "both", func(in *ec2.RegisterImageInput) { in.BootMode = types.BootModeValuesUefiPreferred })
	if err != nil {
		t.Fatal(err)
	}
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	if _, err := client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
	if _, err := client.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &id, InstanceType: &types.AttributeValue{Value: aws.String("t2.micro")}}); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, client, id).CurrentInstanceBootMode; got != types.InstanceBootModeValuesUefi {
		t.Errorf("its last start was by %s", got)
	}
	if _, err := client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if got := waitInstance(t, client, id, types.InstanceStateNameRunning).CurrentInstanceBootMode; got != types.InstanceBootModeValuesLegacyBios {
		t.Errorf("on t2.micro it boots by %s", got)
	}
	strict := putInstance(t, c, state.Stopped, func(i *state.Instance) { i.BootMode, i.Type = "uefi", "t2.micro" })
	_, err = client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{strict.ID}})
	if err == nil {
		t.Error("an instance that boots by UEFI alone starts on t2.micro")
	}
}

// The variables of an image are its instances', and can be read from them.
func TestUEFIData(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := t.Context()
	snap := makeSnapshot(t, c, client, "root")
	data, err := uefivars.Encode([]uefivars.Variable{{Name: "Boot0001", GUID: [16]byte{1}, Attributes: 7, Data: []byte("entry")}})
	if err != nil {
		t.Fatal(err)
	}
	withData := func(in *ec2.RegisterImageInput) {
		in.UefiData, in.BootMode, in.ImdsSupport, in.TpmSupport = &data, types.BootModeValuesUefi, types.ImdsSupportValuesV20, types.TpmSupportValuesV20
	}
	image, err := bootImage(t, client, snap, "with data", withData)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := client.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{image}})
	if err != nil || seen.Images[0].ImdsSupport != types.ImdsSupportValuesV20 || seen.Images[0].TpmSupport != types.TpmSupportValuesV20 {
		t.Errorf("the image is %+v, %v", seen, err)
	}
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	got, err := client.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &id})
	if err != nil || aws.ToString(got.UefiData) != data {
		t.Errorf("the instance has %v, %v", got, err)
	}

	// Where there is a flash, that counts.
	template, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		t.Fatal(err)
	}
	flash, err := uefivars.WriteFlash(template, []uefivars.Variable{{Name: "Boot0002", Attributes: 7, Data: []byte("changed")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(machine.Variables(c.dir.Machine(id)), flash, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err = client.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &id}); err != nil {
		t.Fatal(err)
	}
	if vars, err := uefivars.Decode(*got.UefiData); err != nil || len(vars) != 1 || vars[0].Name != "Boot0002" {
		t.Errorf("the variables are %v, %v", vars, err)
	}

	if _, err := client.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	waitInstance(t, client, id, types.InstanceStateNameTerminated)
	_, err = client.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &id})
	wantCode(t, err, "IncorrectInstanceState")
	if _, err := os.Stat(c.dir.Machine(id)); !os.IsNotExist(err) {
		t.Errorf("the variables outlive the instance: %v", err)
	}
	bios := putInstance(t, c, state.Stopped, nil)
	_, err = client.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &bios.ID})
	wantCode(t, err, "UnsupportedOperation")
	checkBadFirmware(t, client, snap, data)
}

func checkBadFirmware(t *testing.T, client *ec2.Client, snap, data string) {
	t.Helper()
	for name, c := range map[string]struct {
		change func(*ec2.RegisterImageInput)
		code   string
	}{
		"data with BIOS": {func(in *ec2.RegisterImageInput) { in.UefiData = &data }, "InvalidParameterCombination"},
		"TPM with BIOS":  {func(in *ec2.RegisterImageInput) { in.TpmSupport = types.TpmSupportValuesV20 }, "InvalidParameterCombination"},
		"other data": {func(in *ec2.RegisterImageInput) {
			in.UefiData, in.BootMode = aws.String("bm90aGluZw=="), types.BootModeValuesUefi
		}, "InvalidParameterValue"},
		"long data": {func(in *ec2.RegisterImageInput) {
			in.UefiData, in.BootMode = aws.String(strings.Repeat("A", maxUEFIData+1)), types.BootModeValuesUefi
		}, "InvalidParameterValue"},
		"other IMDS": {func(in *ec2.RegisterImageInput) { in.ImdsSupport = "v3.0" }, "InvalidParameterValue"},
	} {
		if _, err := bootImage(t, client, snap, "bad "+name, c.change); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			wantCode(t, err, c.code)
		}
	}
}
