package cloud

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
)

func TestZZCLI(t *testing.T) {
	c, _ := newTestCloud(t)
	srv := httptest.NewServer(c)
	defer srv.Close()
	cmd := exec.Command("bash", "/tmp/acct-scratch/cli.sh")
	cmd.Env = append(os.Environ(), "EP="+srv.URL, "AWS_ACCESS_KEY_ID="+testKeys.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+testKeys.SecretAccessKey, "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	out, err := cmd.CombinedOutput()
	t.Logf("%s %v", out, err)
}
