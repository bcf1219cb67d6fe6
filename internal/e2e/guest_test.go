package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"
)

// login logs in to instances that stead's own verbs know nothing of.
type login struct {
	*rig
	signer ssh.Signer
}

// newLogin makes a key and gives the file of its public half.
func newLogin(t *testing.T, r *rig) (login, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.root, "key.pub")
	if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return login{r, signer}, path
}

// instance describes one instance.
func (r *rig) instance(id string) types.Instance {
	r.t.Helper()
	out, err := r.client().DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// sh runs a shell command in an instance, waiting until ssh answers.
func (l login) sh(id, command string) string {
	l.t.Helper()
	var client *ssh.Client
	l.waitUntil("ssh to "+id, func() bool {
		i := l.instance(id)
		port := "22"
		for _, tag := range i.Tags {
			if aws.ToString(tag.Key) == "stead:port-22" { // the host could not give 22
				port = aws.ToString(tag.Value)
			}
		}
		var err error
		client, err = ssh.Dial("tcp", net.JoinHostPort(aws.ToString(i.PublicIpAddress), port), &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(l.signer)}, Timeout: 5 * time.Second,
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		return err == nil
	})
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := session.CombinedOutput(command)
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", id, command, err, out)
	}
	return strings.TrimSpace(string(out))
}
