package server

import (
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// uefiData asks for the UEFI variables of the instance that a server last ran
// in, in the form that RegisterImage takes. They are in no disk and fit no tag,
// so they can be had only while that instance is there: nil where it is gone,
// doesn't boot by UEFI, or the endpoint can't tell. The firmware then makes its
// own, and only keys of Secure Boot are lost.
func (m *Manager) uefiData(ctx context.Context, f facts) (*string, error) {
	if f.Instance == "" || !strings.HasPrefix(f.BootMode, string(types.BootModeValuesUefi)) {
		return nil, nil
	}
	out, err := m.ec2.GetInstanceUefiData(ctx, &ec2.GetInstanceUefiDataInput{InstanceId: &f.Instance})
	var refused smithy.APIError
	switch {
	case errors.As(err, &refused) && ctx.Err() == nil:
		m.log.Debug("no UEFI variables to pass on", "instance", f.Instance, "why", err)
		return nil, nil
	case err != nil:
		return nil, wrap("read the UEFI variables of", "instance "+f.Instance, err)
	case aws.ToString(out.UefiData) == "":
		return nil, nil
	}
	return out.UefiData, nil
}
