package cli_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/dryrun"
)

const (
	policyFile = "../../docs/iam-policy.json"
	// serverCalls lists what the tests of internal/server saw it send.
	serverCalls = "../server/testdata/calls.txt"
)

var updatePolicy = flag.Bool("update", false, "write "+policyFile+" anew")

// unrecorded are actions that no endpoint of a test answers, each with what it
// is for and why.
func unrecorded() map[string]string {
	return map[string]string{
		"pricing:GetProducts": "cost --refresh; only AWS has its price list",
	}
}

// actions are all that stead may send, as IAM calls them.
func actions(t *testing.T) []string {
	t.Helper()
	list := append(listed(t, serverCalls), listed(t, verbCalls)...)
	for a := range unrecorded() {
		list = append(list, a)
	}
	for k := range planReads.NumMethod() { // a plan looks at more than the deed does
		list = append(list, "ec2:"+planReads.Method(k).Name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// planReads is what a dry run asks an endpoint.
var planReads = reflect.TypeFor[dryrun.Reader]() //nolint:gochecknoglobals // a constant, but for the language

// TestIAMPolicyIsWhole compares the actions with what the code can send.
func TestIAMPolicyIsWhole(t *testing.T) {
	have := actions(t)
	can := append(slices.Collect(maps.Keys(unrecorded())), slices.Collect(maps.Values(sendable()))...)
	for k := range planReads.NumMethod() {
		can = append(can, "ec2:"+planReads.Method(k).Name)
	}
	for _, a := range can {
		if !slices.Contains(have, a) {
			t.Errorf("stead can send %s, which no test does: send it in one, or say in unrecorded what it is for", a)
		}
	}
	for _, a := range have {
		if !slices.Contains(can, a) {
			t.Errorf("%s is in the policy, and stead can't send it", a)
		}
	}
}

// document is an IAM policy.
type document struct {
	Version   string
	Statement []statement
}

// statement is a part of one.
type statement struct {
	Sid       string                         `json:"Sid"`
	Effect    string                         `json:"Effect"`
	Action    []string                       `json:"Action"`
	Resource  any                            `json:"Resource"`
	Condition map[string]map[string][]string `json:"Condition,omitempty"`
}

// ownOnly is met by a resource that stead has tagged.
func ownOnly() map[string]map[string][]string {
	return map[string]map[string][]string{"Null": {"aws:ResourceTag/stead:schema": {"false"}}}
}

// policy deals the actions out to statements. docs/iam.md says why each has
// the condition that it has, or none.
func policy(list []string) document {
	var read, change []string
	for _, a := range list {
		_, name, _ := strings.Cut(a, ":")
		switch {
		case slices.Contains(ending(), a) || slices.Contains(handling(), a) || slices.Contains(scheduling(), a) || a == "ec2:CreateTags" || a == "ec2:DeleteTags":
		case dryrun.Reads(name):
			read = append(read, a)
		default:
			change = append(change, a)
		}
	}
	var making []string
	for _, a := range change {
		if name := strings.TrimPrefix(a, "ec2:"); slices.Contains(tagging(), name) {
			making = append(making, name)
		}
	}
	const role = "AWSDataLifecycleManagerDefaultRole" // with the path that the console gives it, or none
	return document{
		Version: "2012-10-17",
		Statement: []statement{
			{Sid: "Look", Effect: "Allow", Action: read, Resource: "*"},
			{Sid: "MakeAndChange", Effect: "Allow", Action: change, Resource: "*"},
			{Sid: "EndOnlyItsOwn", Effect: "Allow", Action: ending(), Resource: "*", Condition: ownOnly()},
			{Sid: "HandleOnlyItsOwn", Effect: "Allow", Action: handling(), Resource: "*", Condition: ownOnly()},
			{Sid: "ScheduleOnlyItsOwn", Effect: "Allow", Action: scheduling(), Resource: "*", Condition: ownOnly()},
			{
				Sid: "TagWhatItMakes", Effect: "Allow", Action: []string{"ec2:CreateTags"}, Resource: "*",
				Condition: map[string]map[string][]string{"StringEquals": {"ec2:CreateAction": making}},
			},
			{
				Sid: "SetOnlyItsOwnTags", Effect: "Allow", Action: []string{"ec2:CreateTags", "ec2:DeleteTags"}, Resource: "*",
				Condition: map[string]map[string][]string{
					"ForAllValues:StringLike": {"aws:TagKeys": {"stead:*", "Name"}}, "Null": {"aws:TagKeys": {"false"}},
				},
			},
			// No call: CreateLifecyclePolicy may name a role only to who may pass it.
			{
				Sid: "LendSchedulesTheirRole", Effect: "Allow", Action: []string{"iam:PassRole"},
				Resource:  []string{"arn:aws:iam::*:role/" + role, "arn:aws:iam::*:role/service-role/" + role},
				Condition: map[string]map[string][]string{"StringEquals": {"iam:PassedToService": {"dlm.amazonaws.com"}}},
			},
		},
	}
}

// ending are the actions that end something for good and are only ever done to
// what stead has tagged.
func ending() []string {
	return []string{"ec2:DeleteSecurityGroup", "ec2:DeleteVolume", "ec2:ReleaseAddress", "ec2:TerminateInstances"}
}

// handling are actions on instances and disks that are only ever done to what
// stead has tagged: each of the resources that they name must be.
func handling() []string {
	return []string{"ec2:DetachVolume", "ec2:ModifyVolume", "ec2:RebootInstances", "ec2:StartInstances", "ec2:StopInstances"}
}

// scheduling are changes of lifecycle policies and of the Recycle Bin's rules,
// which stead tags when it makes them.
func scheduling() []string {
	return []string{"dlm:DeleteLifecyclePolicy", "dlm:UpdateLifecyclePolicy", "rbin:DeleteRule", "rbin:UpdateRule"}
}

// tagging are the calls that take tags for what they make.
func tagging() []string {
	return []string{
		"AllocateAddress", "CopyImage", "CopySnapshot", "CreateImage", "CreateReplaceRootVolumeTask", "CreateSecurityGroup",
		"CreateSnapshot", "CreateSnapshots", "CreateVolume", "ImportKeyPair", "RegisterImage", "RunInstances",
	}
}

func TestIAMPolicy(t *testing.T) {
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", "  ")
	if err := enc.Encode(policy(actions(t))); err != nil {
		t.Fatal(err)
	}
	if *updatePolicy {
		if err := os.WriteFile(policyFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s isn't what the recorded calls ask for: go test ./internal/cli -run TestIAMPolicy -update", policyFile)
	}
}
