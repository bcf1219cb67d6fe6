package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// bareClient sends signed requests and throws the answers away, so that what
// takes time is the server.
type bareClient struct {
	url, region string
	keys        aws.CredentialsProvider
	signer      *v4.Signer
	http        *http.Client
}

func newBareClient(of *ec2.Client, url, region string) *bareClient {
	return &bareClient{url: url + "/", region: region, keys: of.Options().Credentials, signer: v4.NewSigner(), http: &http.Client{}}
}

// describe asks for all instances.
func (c *bareClient) describe(ctx context.Context) error {
	const form = "Action=DescribeInstances&Version=2016-11-15"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	keys, err := c.keys.Retrieve(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(form))
	if err := c.signer.SignHTTP(ctx, keys, req, hex.EncodeToString(sum[:]), "ec2", c.region, time.Now()); err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n < instancesWanted*1000) {
		err = fmt.Errorf("status %s with %d bytes", resp.Status, n)
	}
	return err
}
