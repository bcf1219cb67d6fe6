package server_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/server"
)

// strictTokens minds client tokens as EC2 does, for moto does not: one that
// comes back with other parameters is refused.
type strictTokens struct {
	server.EC2
	mu   sync.Mutex
	used map[string]string
}

func (s *strictTokens) RunInstances(ctx context.Context, in *ec2.RunInstancesInput, opts ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	was, known := s.used[aws.ToString(in.ClientToken)]
	s.used[aws.ToString(in.ClientToken)] = string(raw)
	s.mu.Unlock()
	if known && was != string(raw) {
		return nil, &smithy.GenericAPIError{Code: "IdempotentParameterMismatch", Message: "other parameters"}
	}
	return s.EC2.RunInstances(ctx, in, opts...)
}

// DescribeInstances has forgotten the dead, as EC2 has an hour later.
func (s *strictTokens) DescribeInstances(ctx context.Context, in *ec2.DescribeInstancesInput, opts ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	out, err := s.EC2.DescribeInstances(ctx, in, opts...)
	if err != nil || len(in.InstanceIds) > 0 {
		return out, err
	}
	for i := range out.Reservations {
		r := &out.Reservations[i]
		r.Instances = slices.DeleteFunc(r.Instances, func(i types.Instance) bool { return i.State.Name == types.InstanceStateNameTerminated })
	}
	return out, nil
}

// A name whose server is gone for good is free for another one, whatever the
// first was made with.
func TestCreateAgainWithOtherOptions(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m := b.manager(&strictTokens{EC2: b.client, used: map[string]string{}})
	first, err := m.Create(ctx, b.webOptions())
	b.check(err)
	_, err = m.Terminate(ctx, first.Name)
	b.check(err)
	b.deleteVolume(first.Root.VolumeID)
	for _, d := range first.Data {
		b.deleteVolume(d.VolumeID)
	}
	o := b.webOptions()
	o.DiskGiB = first.Root.SizeGiB + 3
	second, err := m.Create(ctx, o)
	b.check(err)
	if second.InstanceID == first.InstanceID || second.Root.SizeGiB != o.DiskGiB {
		t.Errorf("the second server is %s with a root of %d GiB; the first was %s", second.InstanceID, second.Root.SizeGiB, first.InstanceID)
	}
}
