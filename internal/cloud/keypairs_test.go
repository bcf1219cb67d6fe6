package cloud

import (
	"context"
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/state"
)

// Public keys that openssl and ssh-keygen made, with the fingerprints that
// openssl computed: `openssl pkey -pubout -outform DER | openssl md5 -c`.
const (
	rsaPublic = "AAAAB3NzaC1yc2EAAAADAQABAAABAQDJQy+v0G0JnSwTET4PTNXpyxxynXrwo29R7QINbpUaqWlvvqeVj08fE42YsqLG2Ke/dJpYd9mU/vzgtOXPooRYeMOQWDA6n3rbfSbb1zud5viMpx8WShcGXoAYBQIYzcqI4qBS0xah/y6Lxgk2eQEFHZgEjmU2k8LW8xBtFO37OgE1jPdbVJb4lyfz7ng93QzMdGQm3ryH+M6linF/GURqJCFCzsP1EHIPq8gOgUrZ7vpsOrHaNFgJ1aiRDpfLijewCDydPGfDlLuOrb+JQ7/84M7lllYbp9hKd7YDkQ7in5vaeoYamP6rVOQ8cUpM2JQ87F4HiLc6u0jZfphFoHsn"
	rsaPrint  = "5a:f2:e2:45:db:56:e3:a5:75:26:1d:97:05:c7:6f:6f"
	edPublic  = "AAAAC3NzaC1lZDI1NTE5AAAAIGIeIHPz0IpokQ/P350vRbntpJS1roAbf68RHLRCKBKZ"
	edPrint   = "FkV3xY6W5QedTMIlgly4gH3tAl/nOZPhX70ROIDCe70="
	rsaPEM    = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyUMvr9BtCZ0sExE+D0zV
6csccp168KNvUe0CDW6VGqlpb76nlY9PHxONmLKixtinv3SaWHfZlP784LTlz6KE
WHjDkFgwOp96230m29c7neb4jKcfFkoXBl6AGAUCGM3KiOKgUtMWof8ui8YJNnkB
BR2YBI5lNpPC1vMQbRTt+zoBNYz3W1SW+Jcn8+54Pd0MzHRkJt68h/jOpYpxfxlE
aiQhQs7D9RByD6vIDoFK2e76bDqx2jRYCdWokQ6Xy4o3sAg8nTxnw5S7jq2/iUO/
/ODO5ZZWG6fYSne2A5EO4p+b2nqGGpj+q1TkPHFKTNiUPOxeB4i3OrtI2X6YRaB7
JwIDAQAB
-----END PUBLIC KEY-----`
)

func TestImportKeyPair(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	rfc4716 := "---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"a \\\nlong one\"\n" + rsaPublic[:70] + "\n" + rsaPublic[70:] + "\n---- END SSH2 PUBLIC KEY ----\n"
	for _, tt := range []struct{ name, material, print, kind, stored string }{
		{"line", "ssh-rsa " + rsaPublic + " me@home\n", rsaPrint, "rsa", "ssh-rsa " + rsaPublic},
		{"bare", rsaPublic, rsaPrint, "rsa", "ssh-rsa " + rsaPublic},
		{"pem", rsaPEM, rsaPrint, "rsa", "ssh-rsa " + rsaPublic},
		{"rfc4716", rfc4716, rsaPrint, "rsa", "ssh-rsa " + rsaPublic},
		{"ed25519", "ssh-ed25519 " + edPublic, edPrint, "ed25519", "ssh-ed25519 " + edPublic},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := client.ImportKeyPair(ctx, &ec2.ImportKeyPairInput{KeyName: &tt.name, PublicKeyMaterial: []byte(tt.material)})
			if err != nil {
				t.Fatal(err)
			}
			if got := aws.ToString(out.KeyFingerprint); got != tt.print {
				t.Errorf("fingerprint is %s, want %s", got, tt.print)
			}
			list, err := client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyPairIds: []string{*out.KeyPairId}, IncludePublicKey: aws.Bool(true)})
			if err != nil {
				t.Fatal(err)
			}
			k := list.KeyPairs[0]
			if string(k.KeyType) != tt.kind || aws.ToString(k.PublicKey) != tt.stored+" "+tt.name {
				t.Errorf("stored as %s %q, want %s %q", k.KeyType, aws.ToString(k.PublicKey), tt.kind, tt.stored+" "+tt.name)
			}
		})
	}
}

func TestImportKeyPairRefuses(t *testing.T) {
	_, client := newTestCloud(t)
	const ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
	for name, tt := range map[string]struct{ name, material, code string }{
		"noise":       {"a", "not a key", "InvalidKey.Format"},
		"ecdsa":       {"a", ecdsa, "InvalidKey.Format"},
		"private":     {"a", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "InvalidKey.Format"},
		"cut":         {"a", "ssh-rsa " + rsaPublic[:200], "InvalidKey.Format"},
		"no end":      {"a", rfc4716Begin + "\n" + rsaPublic, "InvalidKey.Format"},
		"spaced name": {" a", edPublic, "InvalidParameterValue"},
		"no name":     {"", edPublic, "MissingParameter"},
		"long name":   {strings.Repeat("a", 256), edPublic, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.ImportKeyPair(context.Background(), &ec2.ImportKeyPairInput{KeyName: &tt.name, PublicKeyMaterial: []byte(tt.material)})
			wantCode(t, err, tt.code)
		})
	}
}

func TestCreateKeyPair(t *testing.T) {
	cloud, client := newTestCloud(t)
	ctx := context.Background()
	for kind, header := range map[types.KeyType]string{
		types.KeyTypeRsa: "-----BEGIN RSA PRIVATE KEY-----", types.KeyTypeEd25519: "-----BEGIN OPENSSH PRIVATE KEY-----",
	} {
		t.Run(string(kind), func(t *testing.T) {
			name := string(kind)
			out, err := client.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: &name, KeyType: kind})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(*out.KeyMaterial, header) {
				t.Errorf("private key begins with %.40q", *out.KeyMaterial)
			}
			signer, err := ssh.ParsePrivateKey([]byte(*out.KeyMaterial))
			if err != nil {
				t.Fatal(err)
			}
			var stored *state.KeyPair
			if err := cloud.db.View(func(tx *state.Tx) (err error) {
				stored, err = keyPairNamed(tx, state.Scope{Account: DefaultAccount, Region: "us-east-1"}, name)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + name
			if stored.PublicKey != want {
				t.Errorf("the public key kept is %q, the private one's is %q", stored.PublicKey, want)
			}
			if got, want := *out.KeyFingerprint, fingerprintBy(t, kind, *out.KeyMaterial, signer.PublicKey()); got != want {
				t.Errorf("fingerprint is %s, want %s", got, want)
			}
		})
	}
	_, err := client.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: aws.String("rsa")})
	wantCode(t, err, "InvalidKeyPair.Duplicate")
	_, err = client.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: aws.String("x"), KeyFormat: types.KeyFormatPpk})
	wantCode(t, err, "UnsupportedOperation")
	_, err = client.CreateKeyPair(ctx, &ec2.CreateKeyPairInput{KeyName: aws.String("x"), KeyType: "dsa"})
	wantCode(t, err, "InvalidParameterValue")
}

// fingerprintBy computes a made key's fingerprint by other means than the
// product's, as the EC2 user guide tells one to check it.
func fingerprintBy(t *testing.T, kind types.KeyType, private string, public ssh.PublicKey) string {
	t.Helper()
	if kind == types.KeyTypeEd25519 {
		sum, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(ssh.FingerprintSHA256(public), "SHA256:"))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sum)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		skipOrFail(t, "openssl, which the fingerprint is compared with, is not installed")
	}
	cmd := exec.Command("sh", "-c", "openssl pkcs8 -topk8 -nocrypt -outform DER | openssl sha1 -c")
	cmd.Stdin = strings.NewReader(private)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, sum, _ := strings.Cut(strings.TrimSpace(string(out)), "= ")
	return sum
}

func TestDescribeAndDeleteKeyPairs(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	ids := map[string]string{}
	for _, name := range []string{"web-2", "db", "web-1"} {
		out, err := client.ImportKeyPair(ctx, &ec2.ImportKeyPairInput{
			KeyName: &name, PublicKeyMaterial: []byte(edPublic),
			TagSpecifications: []types.TagSpecification{{
				ResourceType: types.ResourceTypeKeyPair, Tags: []types.Tag{{Key: aws.String("for"), Value: aws.String(name[:2])}},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = *out.KeyPairId
	}
	names := func(in *ec2.DescribeKeyPairsInput) string {
		t.Helper()
		out, err := client.DescribeKeyPairs(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, k := range out.KeyPairs {
			list = append(list, *k.KeyName)
			if k.PublicKey != nil {
				t.Errorf("%s comes with its public key unasked", *k.KeyName)
			}
		}
		return strings.Join(list, " ")
	}
	for _, tt := range []struct {
		in   *ec2.DescribeKeyPairsInput
		want string
	}{
		{&ec2.DescribeKeyPairsInput{}, "db web-1 web-2"},
		{&ec2.DescribeKeyPairsInput{KeyNames: []string{"web-2", "db"}}, "db web-2"},
		{&ec2.DescribeKeyPairsInput{Filters: filters("key-name", "web-*")}, "web-1 web-2"},
		{&ec2.DescribeKeyPairsInput{Filters: filters("key-pair-id", ids["db"])}, "db"},
		{&ec2.DescribeKeyPairsInput{Filters: filters("fingerprint", edPrint, "tag:for", "db")}, "db"},
		{&ec2.DescribeKeyPairsInput{Filters: filters("tag-key", "nothing")}, ""},
	} {
		if got := names(tt.in); got != tt.want {
			t.Errorf("%+v: %q, want %q", *tt.in, got, tt.want)
		}
	}
	_, err := client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{"db", "gone"}})
	wantCode(t, err, "InvalidKeyPair.NotFound")
	_, err = client.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{Filters: filters("no-such-filter", "x")})
	wantCode(t, err, "InvalidParameterValue")

	for range 2 { // the second time it is absent, and that is success
		if _, err := client.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: aws.String("web-1")}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyPairId: aws.String(ids["web-2"])}); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(&ec2.DescribeKeyPairsInput{}); got != "db" {
		t.Errorf("after two deletions there is %q", got)
	}
	_, err = client.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{})
	wantCode(t, err, "MissingParameter")
}
