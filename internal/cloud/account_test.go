package cloud

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/steadcloud/stead/internal/state"
)

var testScope = state.Scope{Account: DefaultAccount, Region: "us-east-1"}

// skipOrFail skips what this machine cannot run; with STEAD_STRICT=1 that is a
// failure.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal("skipped under STEAD_STRICT=1: " + why)
	}
	t.Skip(why)
}

// steady gives a client whose large answers do not fail now and then. The SDK
// closes a request's body as soon as the answer's headers are there. If by
// then net/http is not done with making sure that the body has no more bytes,
// the SDK's WriteTo tells it io.EOF, which it takes for a failed write, and it
// closes the connection under the answer. A server on the same machine is fast
// enough for that. The body's Read takes the close well, so WriteTo is hidden.
func steady(client *ec2.Client) *ec2.Client {
	o := client.Options()
	o.HTTPClient = steadyHTTP{}
	return ec2.New(o)
}

type steadyHTTP struct{}

func (steadyHTTP) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultClient.Do(r)
}

// filters makes filters of one value each from names and values in turn.
func filters(pairs ...string) []types.Filter {
	var out []types.Filter
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, types.Filter{Name: &pairs[i], Values: []string{pairs[i+1]}})
	}
	return out
}

// putInstance records an instance as it would be in the state, in the default
// VPC's zone a, for what looks at instances without running them.
func putInstance(t *testing.T, c *Cloud, instState string, change func(*state.Instance)) *state.Instance {
	t.Helper()
	if err := c.ensureRegion(testScope); err != nil {
		t.Fatal(err)
	}
	inst := &state.Instance{
		Meta: c.meta(testScope, "i"), State: instState, Want: instState, Type: "t3.micro", Zone: "us-east-1a", Interface: newID("eni"),
		Attachment: newID("eni-attach"), MAC: "02:00:00:00:00:01", PrivateIP: "172.31.0.10", RootDevice: "/dev/sda1",
	}
	err := c.db.Update(func(tx *state.Tx) error {
		subnets, err := state.List[state.Subnet](tx, testScope)
		if err != nil {
			return err
		}
		for _, s := range subnets {
			if s.Zone == inst.Zone {
				inst.SubnetID, inst.VPCID = s.ID, s.VPCID
			}
		}
		if change != nil {
			change(inst)
		}
		return state.Put(tx, inst)
	})
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

func TestAccountAttributes(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	vpcs, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.DescribeAccountAttributes(ctx, &ec2.DescribeAccountAttributesInput{
		AttributeNames: []types.AccountAttributeName{types.AccountAttributeNameDefaultVpc, types.AccountAttributeNameSupportedPlatforms},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, a := range out.AccountAttributes {
		got[*a.AttributeName] = *a.AttributeValues[0].AttributeValue
	}
	if len(got) != 2 || got["default-vpc"] != *vpcs.Vpcs[0].VpcId || got["supported-platforms"] != "VPC" {
		t.Errorf("attributes are %v", got)
	}
	_, err = client.DescribeAccountAttributes(ctx, &ec2.DescribeAccountAttributesInput{AttributeNames: []types.AccountAttributeName{"colour"}})
	wantCode(t, err, "InvalidParameterValue")
}

func TestEmptyLists(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	if out, err := client.DescribeIamInstanceProfileAssociations(ctx, &ec2.DescribeIamInstanceProfileAssociationsInput{}); err != nil || len(out.IamInstanceProfileAssociations) > 0 {
		t.Errorf("instance profiles: %v, %v", out, err)
	}
	if out, err := client.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{}); err != nil || len(out.LaunchTemplates) > 0 {
		t.Errorf("launch templates: %v, %v", out, err)
	}
	_, err := client.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{"x"}})
	wantCode(t, err, "InvalidLaunchTemplateName.NotFoundException")
	out, err := client.GetEbsEncryptionByDefault(ctx, &ec2.GetEbsEncryptionByDefaultInput{})
	if err != nil || aws.ToBool(out.EbsEncryptionByDefault) {
		t.Errorf("encryption by default: %v, %v", out, err)
	}
	_, err = client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{DryRun: aws.Bool(true)})
	wantCode(t, err, "DryRunOperation")
}

func TestCallerIdentity(t *testing.T) {
	c, _ := newTestCloud(t)
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	client := sts.New(sts.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String(srv.URL), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, testKeys.SecretAccessKey, ""),
	})
	out, err := client.GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	if *out.Account != DefaultAccount || *out.Arn != "arn:aws:iam::"+DefaultAccount+":root" || *out.UserId != DefaultAccount {
		t.Errorf("identity is %s %s %s", *out.Account, *out.Arn, *out.UserId)
	}
}

func TestParameters(t *testing.T) {
	c, _ := newTestCloud(t)
	ctx := context.Background()
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	client := ssm.New(ssm.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(srv.URL), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, testKeys.SecretAccessKey, ""),
	})
	const image = "ami-0123456789abcdef0"
	set := func(name, value string) {
		t.Helper()
		if err := c.db.Update(func(tx *state.Tx) error { return c.setParameter(tx, testScope, name, value) }); err != nil {
			t.Fatal(err)
		}
	}
	set("/aws/service/stead/tiny/latest/x86_64", "ami-0000000000000000f")
	set("/aws/service/stead/tiny/latest/x86_64", image) // version 2
	for _, n := range []string{"a", "b", "c"} {
		set("/aws/service/list/"+n, n)
	}
	set("/aws/service/list/deep/d", "d")
	set("/aws/service/listing", "no")

	t.Run("get", func(t *testing.T) {
		for _, name := range []string{"/aws/service/stead/tiny/latest/x86_64", "/aws/service/stead/tiny/latest/x86_64:2"} {
			out, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: &name})
			if err != nil {
				t.Fatal(err)
			}
			if p := out.Parameter; *p.Value != image || p.Version != 2 || *p.DataType != "aws:ec2:image" || p.Type != "String" ||
				*p.ARN != "arn:aws:ssm:us-east-1::parameter/aws/service/stead/tiny/latest/x86_64" {
				t.Errorf("parameter is %s version %d %s %s %s", *p.Value, p.Version, *p.DataType, p.Type, *p.ARN)
			}
		}
		_, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/aws/service/stead/tiny/latest/x86_64:1")})
		wantCode(t, err, "ParameterVersionNotFound")
		_, err = client.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/aws/service/none")})
		wantCode(t, err, "ParameterNotFound")
		elsewhere := client.Options()
		elsewhere.Region = "us-west-2"
		_, err = ssm.New(elsewhere).GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/aws/service/list/a")})
		wantCode(t, err, "ParameterNotFound")
	})
	t.Run("several", func(t *testing.T) {
		out, err := client.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/aws/service/list/b", "/aws/service/none"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Parameters) != 1 || *out.Parameters[0].Value != "b" || len(out.InvalidParameters) != 1 || out.InvalidParameters[0] != "/aws/service/none" {
			t.Errorf("got %v, invalid %v", out.Parameters, out.InvalidParameters)
		}
	})
	t.Run("path", func(t *testing.T) {
		list := func(in *ssm.GetParametersByPathInput) (values string) {
			t.Helper()
			for p := ssm.NewGetParametersByPathPaginator(client, in); p.HasMorePages(); {
				page, err := p.NextPage(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Parameters) > int(aws.ToInt32(in.MaxResults)) {
					t.Errorf("a page has %d parameters", len(page.Parameters))
				}
				for _, p := range page.Parameters {
					values += *p.Value
				}
			}
			return values
		}
		if got := list(&ssm.GetParametersByPathInput{Path: aws.String("/aws/service/list"), MaxResults: aws.Int32(2)}); got != "abc" {
			t.Errorf("flat: %q", got)
		}
		if got := list(&ssm.GetParametersByPathInput{Path: aws.String("/aws/service/list/"), Recursive: aws.Bool(true), MaxResults: aws.Int32(2)}); got != "abcd" {
			t.Errorf("recursive: %q", got)
		}
		_, err := client.GetParametersByPath(ctx, &ssm.GetParametersByPathInput{Path: aws.String("/aws"), MaxResults: aws.Int32(11)})
		wantCode(t, err, "ValidationException")
	})
}

func TestInstanceTypes(t *testing.T) {
	_, client := newTestCloud(t)
	client = steady(client)
	ctx := context.Background()
	list := func(in *ec2.DescribeInstanceTypesInput) (infos []types.InstanceTypeInfo) {
		t.Helper()
		for p := ec2.NewDescribeInstanceTypesPaginator(client, in); p.HasMorePages(); {
			page, err := p.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			infos = append(infos, page.InstanceTypes...)
		}
		return infos
	}
	all := list(&ec2.DescribeInstanceTypesInput{MaxResults: aws.Int32(5)})
	if len(all) != len(instanceTypes) {
		t.Errorf("pages give %d types of %d", len(all), len(instanceTypes))
	}
	seen := map[types.InstanceType]bool{}
	for _, i := range all {
		if seen[i.InstanceType] {
			t.Errorf("%s is given twice", i.InstanceType)
		}
		seen[i.InstanceType] = true
		if *i.VCpuInfo.DefaultCores**i.VCpuInfo.DefaultThreadsPerCore != *i.VCpuInfo.DefaultVCpus {
			t.Errorf("%s: %d cores of %d threads are not %d vCPUs", i.InstanceType, *i.VCpuInfo.DefaultCores, *i.VCpuInfo.DefaultThreadsPerCore, *i.VCpuInfo.DefaultVCpus)
		}
	}
	one := list(&ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"t3.micro"}})
	if len(one) != 1 || *one[0].VCpuInfo.DefaultVCpus != 2 || *one[0].MemoryInfo.SizeInMiB != 1024 || !*one[0].BurstablePerformanceSupported {
		t.Errorf("t3.micro is %+v", one)
	}
	for want, f := range map[string][]types.Filter{
		"r5.4xlarge":                    filters("memory-info.size-in-mib", "131072"),
		"t2.nano t3.nano t3a.nano":      filters("memory-info.size-in-mib", "512"),
		"t2.2xlarge":                    filters("hypervisor", "xen", "vcpu-info.default-vcpus", "8"),
		"t2.micro t3.micro":             filters("free-tier-eligible", "true"),
		"":                              filters("processor-info.supported-architecture", "arm64"),
		"c5.xlarge m5.xlarge r5.xlarge": filters("instance-type", "?5.xlarge"),
	} {
		var names []string
		for _, i := range list(&ec2.DescribeInstanceTypesInput{Filters: f}) {
			names = append(names, string(i.InstanceType))
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%v=%v: %q, want %q", *f[0].Name, f[0].Values, got, want)
		}
	}
	_, err := client.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"m1.big"}})
	wantCode(t, err, "InvalidInstanceType")
}

func TestInstanceTypeOfferings(t *testing.T) {
	_, client := newTestCloud(t)
	client = steady(client)
	ctx := context.Background()
	for kind, want := range map[types.LocationType]string{
		"": "us-east-1", types.LocationTypeAvailabilityZone: "us-east-1a us-east-1b us-east-1c",
		types.LocationTypeAvailabilityZoneId: "use1-az1 use1-az2 use1-az3",
	} {
		out, err := client.DescribeInstanceTypeOfferings(ctx, &ec2.DescribeInstanceTypeOfferingsInput{LocationType: kind, Filters: filters("instance-type", "t3.small")})
		if err != nil {
			t.Fatal(err)
		}
		var places []string
		for _, o := range out.InstanceTypeOfferings {
			places = append(places, *o.Location)
		}
		if got := strings.Join(places, " "); got != want {
			t.Errorf("%s: offered in %q, want %q", kind, got, want)
		}
	}
	n := 0
	for p := ec2.NewDescribeInstanceTypeOfferingsPaginator(client, &ec2.DescribeInstanceTypeOfferingsInput{
		LocationType: types.LocationTypeAvailabilityZone, MaxResults: aws.Int32(7),
	}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.InstanceTypeOfferings)
	}
	if n != 3*len(instanceTypes) {
		t.Errorf("pages give %d offerings, want %d", n, 3*len(instanceTypes))
	}
	_, err := client.DescribeInstanceTypeOfferings(ctx, &ec2.DescribeInstanceTypeOfferingsInput{LocationType: "moon"})
	wantCode(t, err, "InvalidParameterValue")
}

func TestCreditSpecifications(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	burst := putInstance(t, c, state.Stopped, nil)
	plain := putInstance(t, c, state.Stopped, func(i *state.Instance) { i.Type = "m5.large" })
	out, err := client.DescribeInstanceCreditSpecifications(ctx, &ec2.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{burst.ID}})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.InstanceCreditSpecifications) != 1 || *out.InstanceCreditSpecifications[0].CpuCredits != "standard" {
		t.Errorf("credits are %+v", out.InstanceCreditSpecifications)
	}
	_, err = client.DescribeInstanceCreditSpecifications(ctx, &ec2.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{plain.ID}})
	wantCode(t, err, "InstanceCreditSpecification.NotSupported")
	_, err = client.DescribeInstanceCreditSpecifications(ctx, &ec2.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{"i-0000000000000000f"}})
	wantCode(t, err, "InvalidInstanceID.NotFound")
}

// TestTypesAgree asks the whole table what no line of it may break.
func TestTypesAgree(t *testing.T) {
	for i, spec := range instanceTypes {
		if i > 0 && instanceTypes[i-1].Name >= spec.Name {
			t.Errorf("%s comes after %s: pages need them ordered", spec.Name, instanceTypes[i-1].Name)
		}
		if family, _, _ := strings.Cut(spec.Name, "."); spec.Burstable != strings.HasPrefix(family, "t") || spec.Xen != (family == "t2") {
			t.Errorf("%s is marked as of another family: %+v", spec.Name, spec)
		}
		if got, ok := instanceType(spec.Name); !ok || got != spec {
			t.Errorf("%s is found as %+v", spec.Name, got)
		}
	}
	if _, ok := instanceType("t4g.micro"); ok {
		t.Error("an arm64 type is offered")
	}
}
