package cloud

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

var testKeys = Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "secret"}

// newTestCloud serves a cloud without machines over HTTP and gives a client of
// it.
func newTestCloud(t *testing.T) (*Cloud, *ec2.Client) {
	t.Helper()
	c := openTestCloud(t, Dir(t.TempDir()))
	return c, testClient(t, c, "us-east-1")
}

func openTestCloud(t *testing.T, dir Dir) *Cloud {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: testLog(t, slog.LevelInfo)}, noMachines{dir.Volumes()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func testClient(t *testing.T, c *Cloud, region string) *ec2.Client {
	t.Helper()
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	return ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String(srv.URL), RetryMaxAttempts: 1, HTTPClient: steadyHTTP{},
		Credentials: credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, testKeys.SecretAccessKey, ""),
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
