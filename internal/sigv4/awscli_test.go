package sigv4

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestAWSCLI lets the unmodified aws command sign, a signer of another make.
func TestAWSCLI(t *testing.T) {
	aws, err := exec.LookPath("aws")
	if err != nil || testing.Short() {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal("the aws command (awscli) is not installed, or -short is set")
		}
		t.Skip("the aws command (awscli) is not installed, or -short is set")
	}
	tests := []struct {
		name, secret string
		args         []string
		want         Identity
		kind         Kind
	}{
		{"ec2", testSecret, []string{"ec2", "describe-volumes", "--filters", "Name=tag:ü,Values=a b+c&d"}, Identity{testKey, "123456789012", "eu-west-1", "ec2"}, 0},
		{"ebs path and query", testSecret, []string{"ebs", "list-snapshot-blocks", "--snapshot-id", "snap-1", "--next-token", "a b/c=="}, Identity{testKey, "123456789012", "eu-west-1", "ebs"}, 0},
		{"wrong secret", "other", []string{"ec2", "describe-volumes"}, Identity{}, BadSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			type verdict struct {
				id  Identity
				err error
			}
			seen := make(chan verdict, 16)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				id, err := Verify(r, body, time.Now(), testLookup)
				seen <- verdict{id, err}
				w.WriteHeader(http.StatusBadRequest) // what it answers does not matter here
			}))
			defer s.Close()
			cmd := exec.Command(aws, append(tt.args, "--endpoint-url", s.URL, "--region", "eu-west-1")...)
			cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+testKey, "AWS_SECRET_ACCESS_KEY="+tt.secret, "AWS_SESSION_TOKEN=",
				"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1", "LC_ALL=C.UTF-8")
			out, _ := cmd.CombinedOutput() // it fails at the answer
			select {
			case v := <-seen:
				if v.id != tt.want || kindOf(t, v.err) != tt.kind {
					t.Errorf("got %+v, %v", v.id, v.err)
				}
			default:
				t.Fatalf("aws sent nothing: %s", strings.TrimSpace(string(out)))
			}
		})
	}
}
