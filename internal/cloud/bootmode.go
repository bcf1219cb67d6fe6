package cloud

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/state"
	"github.com/steadcloud/stead/internal/uefivars"
)

// The boot modes of an image.
const (
	bootUEFI      = string(types.BootModeValuesUefi)
	bootPreferred = string(types.BootModeValuesUefiPreferred)
)

// maxUEFIData is EC2's limit of RegisterImage.UefiData.
const maxUEFIData = 64000

// bootMode tells by which firmware an instance boots when it starts now, as EC2
// decides: by UEFI where its image and its type both can, the default being
// BIOS. An image that can do without UEFI does so where the firmware isn't
// installed, or where a kernel is booted without a boot loader.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-boot.html
func (c *Cloud) bootMode(i *state.Instance) (types.InstanceBootModeValues, error) {
	t, _ := instanceType(i.Type)
	able := slices.Contains(t.bootModes(), types.BootModeTypeUefi)
	_, err := c.hyper.firmware()
	switch {
	case i.BootMode == bootUEFI && !able:
		return "", fail("InvalidParameterValue", "The %s instance type does not support an AMI with a boot mode of UEFI. "+
			"Only instance types built on the Nitro System support UEFI. Specify an instance type that supports UEFI, and try again.", i.Type)
	case i.BootMode == bootUEFI && errors.Is(err, machine.ErrNoFirmware):
		return "", fail("UnsupportedOperation", "The image '%s' boots by UEFI alone, and this machine has no firmware for that. Install it: apt-get install ovmf", i.ImageID)
	case i.BootMode == bootUEFI, i.BootMode == bootPreferred && able && err == nil && i.KernelID == "":
		return types.InstanceBootModeValuesUefi, nil
	}
	return types.InstanceBootModeValuesLegacyBios, nil
}

// currentBootMode is that of an instance's last start. Records of an older
// version don't have it: only images that can't do without UEFI got it then.
func currentBootMode(i *state.Instance) types.InstanceBootModeValues {
	switch {
	case i.CurrentBootMode != "":
		return types.InstanceBootModeValues(i.CurrentBootMode)
	case i.BootMode == bootUEFI:
		return types.InstanceBootModeValuesUefi
	}
	return types.InstanceBootModeValuesLegacyBios
}

// checkFirmware refuses an image whose firmware could not be what it says.
func checkFirmware(img *state.Image) error {
	switch {
	case img.BootMode != "" && !slices.Contains(types.BootModeValues("").Values(), types.BootModeValues(img.BootMode)):
		return invalid(img.BootMode, "bootMode", "Use legacy-bios, uefi or uefi-preferred.")
	case img.IMDS != "" && img.IMDS != string(types.ImdsSupportValuesV20):
		return invalid(img.IMDS, "imdsSupport", "Use v2.0, or leave it out.")
	case img.TPM != "" && img.TPM != string(types.TpmSupportValuesV20):
		return invalid(img.TPM, "tpmSupport", "Use v2.0, or leave it out.")
	case img.TPM != "" && img.BootMode != bootUEFI:
		return fail("InvalidParameterCombination", "TpmSupport needs the boot mode uefi, not '%s'.", img.BootMode)
	case img.UEFIData == "":
		return nil
	case img.BootMode != bootUEFI && img.BootMode != bootPreferred:
		return fail("InvalidParameterCombination", "UefiData needs the boot mode uefi or uefi-preferred, not '%s'.", img.BootMode)
	case len(img.UEFIData) > maxUEFIData:
		return fail("InvalidParameterValue", "UefiData is limited to %d characters; this has %d.", maxUEFIData, len(img.UEFIData))
	}
	_, err := uefivars.Decode(img.UEFIData)
	switch {
	case errors.Is(err, uefivars.ErrDictionary):
		return unsupported("UEFI variables that were packed on AWS, with a dictionary of its own,", "Leave UefiData out: the firmware makes its variables anew, but for keys of Secure Boot.")
	case err != nil:
		return fail("InvalidParameterValue", "UefiData is invalid: %v", err)
	}
	return nil
}

// firstVariables gives the flash that an instance's firmware begins with; nil
// where it has one already, or begins with the firmware's own.
func (c *Cloud) firstVariables(i *state.Instance) ([]byte, error) {
	if i.UEFIData == "" {
		return nil, nil
	}
	if _, err := os.Stat(machine.Variables(c.dir.Machine(i.ID))); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path, err := c.hyper.firmware()
	if err != nil || path == "" {
		return nil, err
	}
	variables, err := uefivars.Decode(i.UEFIData)
	if err != nil {
		return nil, fmt.Errorf("UEFI variables of the image: %w", err)
	}
	template, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	flash, err := uefivars.WriteFlash(template, variables)
	if err != nil {
		return nil, fmt.Errorf("UEFI variables of the image: %w", err)
	}
	return flash, nil
}

// GetInstanceUefiData gives the variables of a machine that boots by UEFI, as
// they are in its flash.
func (c *Cloud) GetInstanceUefiData(ctx context.Context, in *ec2.GetInstanceUefiDataInput) (*ec2.GetInstanceUefiDataOutput, error) {
	if in.InstanceId == nil {
		return nil, missing("instanceId")
	}
	var i *state.Instance
	err := c.db.View(func(tx *state.Tx) (err error) {
		i, err = find[state.Instance](tx, from(ctx).Scope, instanceIDs, *in.InstanceId)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case i.State == state.Terminated:
		return nil, fail("IncorrectInstanceState", "The instance '%s' is terminated, and its UEFI variables are gone with it.", i.ID)
	case currentBootMode(i) != types.InstanceBootModeValuesUefi:
		return nil, fail("UnsupportedOperation", "The instance '%s' does not boot by UEFI, so it has no UEFI variables.", i.ID)
	}
	data, err := c.uefiData(i)
	if err != nil {
		return nil, fail("UnsupportedOperation", "The UEFI variables of instance '%s' can't be given: %v.", i.ID, err)
	}
	return &ec2.GetInstanceUefiDataOutput{InstanceId: aws.String(i.ID), UefiData: aws.String(data)}, nil
}

// uefiData reads an instance's variables. One that never ran has those of its
// image.
func (c *Cloud) uefiData(i *state.Instance) (string, error) {
	flash, err := os.ReadFile(machine.Variables(c.dir.Machine(i.ID)))
	if errors.Is(err, fs.ErrNotExist) {
		if i.UEFIData != "" {
			return i.UEFIData, nil
		}
		return uefivars.Encode(nil)
	}
	if err != nil {
		return "", err
	}
	variables, err := uefivars.ReadFlash(flash)
	if err != nil {
		return "", err
	}
	return uefivars.Encode(variables)
}
