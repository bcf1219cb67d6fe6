package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// errNoMoto says that there is no moto_server to compare with.
var errNoMoto = errors.New("moto_server is not installed")

// startMoto starts moto's server with nothing in it.
func startMoto(ctx context.Context, b *bench) (e *endpoint, stop func() error, err error) {
	program, err := motoProgram(ctx)
	if err != nil {
		return nil, nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, nil, err
	}
	host, port, _ := strings.Cut(address, ":")
	cmd := exec.CommandContext(ctx, program, "-H", host, "-p", port)
	cmd.Dir = b.dir
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return err
	}
	if _, err := waitHealthy(ctx, time.Now(), "http://"+address+"/moto-api/data.json"); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("moto_server: %w: %s", err, log.Bytes()), stop())
	}
	client := newClient("http://"+address, "us-east-1", "AKIAIOSFODNN7EXAMPLE", "none")
	e = &endpoint{client: client, bare: newBareClient(client, "http://"+address, "us-east-1"), many: 2}
	images, err := client.DescribeImages(ctx, &ec2.DescribeImagesInput{})
	if err == nil && len(images.Images) == 0 {
		err = errors.New("it has no image")
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("moto_server: %w", err), stop())
	}
	e.image = *images.Images[0].ImageId
	return e, stop, nil
}

// motoProgram finds the server itself: what pyenv puts into PATH is a script
// that starts it as a child.
func motoProgram(ctx context.Context) (string, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return "", errNoMoto
	}
	if out, err := exec.CommandContext(ctx, "pyenv", "which", "moto_server").Output(); err == nil {
		path = strings.TrimSpace(string(out))
	}
	return path, nil
}
