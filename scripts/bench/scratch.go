package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/cloud"
)

// stopLimit bounds the end of a scratch cloud.
const stopLimit = time.Minute

// scratch is a local cloud of the benchmark's own, with its own settings, in
// folders that are removed after it.
type scratch struct {
	stead    string
	dir      string
	machines string // auto or none
}

func (b *bench) newScratch(machines string) (*scratch, error) {
	dir, err := os.MkdirTemp(b.dir, "cloud")
	if err != nil {
		return nil, err
	}
	return &scratch{stead: b.stead, dir: dir, machines: machines}, os.Chmod(dir, 0o755)
}

func (s *scratch) data() cloud.Dir { return cloud.Dir(filepath.Join(s.dir, "data")) }
func (s *scratch) config() string  { return filepath.Join(s.dir, "config") }

// command is a run of stead on this cloud and on no other.
func (s *scratch) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.stead, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "STEAD_") && !strings.HasPrefix(v, "AWS_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "STEAD_DATA_DIR="+string(s.data()), "STEAD_CONFIG_DIR="+s.config(),
		"STEAD_LISTEN=127.0.0.1:0", "STEAD_MACHINES="+s.machines, "STEAD_EGRESS=off")
	return cmd
}

// run runs stead and gives what it wrote and how long it took.
func (s *scratch) run(ctx context.Context, args ...string) (string, time.Duration, error) {
	return s.feed(ctx, nil, args...)
}

// feed is run with something on standard input.
func (s *scratch) feed(ctx context.Context, in io.Reader, args ...string) (string, time.Duration, error) {
	cmd := s.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		err = fmt.Errorf("stead %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), took, err
}

// client is an SDK client of the cloud, which must run.
func (s *scratch) client(ctx context.Context) (*ec2.Client, cloud.Info, error) {
	control, err := cloud.Connect(string(s.data()))
	if err != nil {
		return nil, cloud.Info{}, err
	}
	info, err := control.Info(ctx)
	if err != nil {
		return nil, info, err
	}
	keys, err := control.Credentials(ctx)
	if err != nil {
		return nil, info, err
	}
	return newClient(info.Endpoint, info.Region, keys.AccessKeyID, keys.SecretAccessKey), info, nil
}

func newClient(endpoint, region, key, secret string) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String(endpoint), RetryMaxAttempts: 1, HTTPClient: steadyHTTP{},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
}

// steadyHTTP hides the WriteTo of request bodies. The SDK closes a body as soon
// as an answer begins; net/http may then still be looking for the body's end,
// takes what WriteTo tells it for a failure, and cuts a large answer off.
type steadyHTTP struct{}

// Do implements the SDK's HTTPClient.
func (steadyHTTP) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultClient.Do(r) //nolint:gosec // to servers that this program started
}

// stop shuts the machines and the daemon down. It takes its own time, also
// after an interruption.
func (s *scratch) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	_, _, err := s.run(ctx, "cloud", "stop", "-q")
	return err
}

// end stops the cloud and removes its folders.
func (s *scratch) end(ctx context.Context) error {
	return errors.Join(s.stop(ctx), os.RemoveAll(s.dir))
}

// until looks again and again, fast, whether something has come about.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s", what, limit)
		case <-tick.C:
		}
	}
}
