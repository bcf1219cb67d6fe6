package cloud

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/md5" //nolint:gosec // EC2's fingerprint of an imported RSA key is MD5
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // EC2's fingerprint of an RSA key it made is SHA-1
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/state"
)

const (
	rsaBits    = 2048 // of a key made here, as on EC2
	maxKeyName = 255
)

// CreateKeyPair makes a key pair and gives the private key, once: only the
// public half is kept.
func (c *Cloud) CreateKeyPair(ctx context.Context, in *ec2.CreateKeyPairInput) (*ec2.CreateKeyPairOutput, error) {
	if in.KeyFormat != "" && in.KeyFormat != types.KeyFormatPem {
		return nil, unsupported("Key format "+string(in.KeyFormat), "Use pem; puttygen makes a ppk file of it.")
	}
	k, err := c.newKeyPair(ctx, in.KeyName, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	private, err := generate(k, in.KeyType)
	if err != nil {
		return nil, err
	}
	if err := c.putKeyPair(k); err != nil {
		return nil, err
	}
	return &ec2.CreateKeyPairOutput{
		KeyName: aws.String(k.Name), KeyPairId: aws.String(k.ID), KeyFingerprint: aws.String(k.Fingerprint),
		KeyMaterial: aws.String(private), Tags: tagList(k.Tags),
	}, nil
}

// ImportKeyPair keeps a public key that the client made.
func (c *Cloud) ImportKeyPair(ctx context.Context, in *ec2.ImportKeyPairInput) (*ec2.ImportKeyPairOutput, error) {
	k, err := c.newKeyPair(ctx, in.KeyName, in.TagSpecifications)
	if err != nil {
		return nil, err
	}
	if len(in.PublicKeyMaterial) == 0 {
		return nil, missing("PublicKeyMaterial")
	}
	if err := importKey(k, in.PublicKeyMaterial); err != nil {
		return nil, err
	}
	if err := c.putKeyPair(k); err != nil {
		return nil, err
	}
	return &ec2.ImportKeyPairOutput{
		KeyName: aws.String(k.Name), KeyPairId: aws.String(k.ID), KeyFingerprint: aws.String(k.Fingerprint), Tags: tagList(k.Tags),
	}, nil
}

func (c *Cloud) newKeyPair(ctx context.Context, name *string, specs []types.TagSpecification) (*state.KeyPair, error) {
	switch n := aws.ToString(name); {
	case n == "":
		return nil, missing("KeyName")
	case len(n) > maxKeyName, strings.TrimSpace(n) != n, strings.ContainsFunc(n, notPrintable):
		return nil, invalid(n, "KeyName", "A name has up to 255 printable ASCII characters and no space at its ends.")
	}
	tags, err := tagsFor(specs, types.ResourceTypeKeyPair)
	if err != nil {
		return nil, err
	}
	k := &state.KeyPair{Meta: c.meta(from(ctx).Scope, "key"), Name: *name}
	k.Tags = tags
	return k, nil
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }

func (c *Cloud) putKeyPair(k *state.KeyPair) error {
	return c.db.Update(func(tx *state.Tx) error {
		switch old, err := keyPairNamed(tx, k.Scope(), k.Name); {
		case err != nil:
			return err
		case old != nil:
			return fail("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", k.Name)
		}
		return state.Put(tx, k)
	})
}

// keyPairNamed finds a key pair by its name; nil if there is none.
func keyPairNamed(tx *state.Tx, s state.Scope, name string) (*state.KeyPair, error) {
	all, err := state.List[state.KeyPair](tx, s)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(k *state.KeyPair) bool { return k.Name == name }); i >= 0 {
		return all[i], nil
	}
	return nil, nil
}

// generate fills k with a new key's public half and gives the private half.
func generate(k *state.KeyPair, kind types.KeyType) (string, error) {
	switch kind {
	case "", types.KeyTypeRsa:
		return generateRSA(k)
	case types.KeyTypeEd25519:
		return generateEd25519(k)
	}
	return "", invalid(kind, "KeyType", "There are rsa and ed25519.")
}

func generateRSA(k *state.KeyPair) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return "", fmt.Errorf("make key pair %s: %w", k.Name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make key pair %s: %w", k.Name, err)
	}
	sum := sha1.Sum(der) //nolint:gosec // see the import
	k.Type, k.Fingerprint = string(types.KeyTypeRsa), colons(sum[:])
	if k.PublicKey, err = authorizedKey(key.Public(), k.Name); err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})), nil
}

func generateEd25519(k *state.KeyPair) (string, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make key pair %s: %w", k.Name, err)
	}
	block, err := ssh.MarshalPrivateKey(crypto.PrivateKey(key), "")
	if err != nil {
		return "", fmt.Errorf("make key pair %s: %w", k.Name, err)
	}
	if k.PublicKey, err = authorizedKey(public, k.Name); err != nil {
		return "", err
	}
	sshKey, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("make key pair %s: %w", k.Name, err)
	}
	k.Type, k.Fingerprint = string(types.KeyTypeEd25519), sha256Fingerprint(sshKey)
	return string(pem.EncodeToMemory(block)), nil
}

// authorizedKey writes a public key as a line of authorized_keys, with the
// key pair's name as its comment, as EC2 gives it to an instance.
func authorizedKey(public crypto.PublicKey, comment string) (string, error) {
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("public key of %s: %w", comment, err)
	}
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n") + " " + comment, nil
}

// importKey fills k from a client's public key: an authorized_keys line, or
// the same key base64-encoded, PEM or RFC 4716, all of which EC2 takes.
func importKey(k *state.KeyPair, material []byte) error {
	key, err := parsePublicKey(material)
	if err != nil {
		return &apiError{Code: "InvalidKey.Format", Message: "Key is not in valid OpenSSH public key format", cause: err}
	}
	public, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return fail("InvalidKey.Format", "Keys of type %s are not taken; rsa and ed25519 are.", key.Type())
	}
	switch p := public.CryptoPublicKey().(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n != 1024 && n != 2048 && n != 4096 {
			return fail("InvalidKey.Format", "RSA keys have 1024, 2048 or 4096 bits, not %d.", n)
		}
		der, err := x509.MarshalPKIXPublicKey(p)
		if err != nil {
			return fmt.Errorf("import key pair %s: %w", k.Name, err)
		}
		sum := md5.Sum(der) //nolint:gosec // see the import
		k.Type, k.Fingerprint = string(types.KeyTypeRsa), colons(sum[:])
	case ed25519.PublicKey:
		k.Type, k.Fingerprint = string(types.KeyTypeEd25519), sha256Fingerprint(key)
	default:
		return fail("InvalidKey.Format", "Keys of type %s are not taken; rsa and ed25519 are.", key.Type())
	}
	k.PublicKey = strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n") + " " + k.Name
	return nil
}

const rfc4716Begin, rfc4716End = "---- BEGIN SSH2 PUBLIC KEY ----", "---- END SSH2 PUBLIC KEY ----"

func parsePublicKey(material []byte) (ssh.PublicKey, error) {
	text := strings.TrimSpace(string(material))
	if block, _ := pem.Decode([]byte(text)); block != nil {
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		return ssh.NewPublicKey(public)
	}
	if body, ok := strings.CutPrefix(text, rfc4716Begin); ok {
		return parseRFC4716(body)
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text)); err == nil {
		return key, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("neither an authorized_keys line nor base64")
	}
	return ssh.ParsePublicKey(raw)
}

// parseRFC4716 reads what follows the begin marker: headers, of which one that
// ends in a backslash goes on in the next line, then base64.
func parseRFC4716(body string) (ssh.PublicKey, error) {
	body, _, ok := strings.Cut(body, rfc4716End)
	if !ok {
		return nil, errors.New("no end marker")
	}
	var data strings.Builder
	inHeader := false
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if inHeader || strings.Contains(line, ":") {
			inHeader = strings.HasSuffix(line, `\`)
			continue
		}
		data.WriteString(line)
	}
	raw, err := base64.StdEncoding.DecodeString(data.String())
	if err != nil {
		return nil, err
	}
	return ssh.ParsePublicKey(raw)
}

func colons(sum []byte) string {
	pairs := make([]string, len(sum))
	for i := range sum {
		pairs[i] = hex.EncodeToString(sum[i : i+1])
	}
	return strings.Join(pairs, ":")
}

// sha256Fingerprint is OpenSSH's, without its name, and padded, as EC2 shows
// it.
func sha256Fingerprint(key ssh.PublicKey) string {
	sum := sha256.Sum256(key.Marshal())
	return base64.StdEncoding.EncodeToString(sum[:])
}

var keyPairFilters = fields[*state.KeyPair]{
	"key-pair-id": one(func(k *state.KeyPair) string { return k.ID }),
	"key-name":    one(func(k *state.KeyPair) string { return k.Name }),
	"key-type":    one(func(k *state.KeyPair) string { return k.Type }),
	"fingerprint": one(func(k *state.KeyPair) string { return k.Fingerprint }),
}

// DescribeKeyPairs lists key pairs, ordered by name.
func (c *Cloud) DescribeKeyPairs(ctx context.Context, in *ec2.DescribeKeyPairsInput) (*ec2.DescribeKeyPairsOutput, error) {
	var keys []*state.KeyPair
	err := c.db.View(func(tx *state.Tx) (err error) {
		keys, err = state.List[state.KeyPair](tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	if keys, err = selectByID(keys, in.KeyPairIds, keyPairIDs); err != nil {
		return nil, err
	}
	keys, err = selectByName(keys, in.KeyNames, func(k *state.KeyPair) string { return k.Name }, keyPairIDs.missing)
	if err != nil {
		return nil, err
	}
	if keys, err = filter(keys, in.Filters, keyPairFilters); err != nil {
		return nil, err
	}
	slices.SortFunc(keys, func(a, b *state.KeyPair) int { return strings.Compare(a.Name, b.Name) })
	out := &ec2.DescribeKeyPairsOutput{}
	for _, k := range keys {
		info := types.KeyPairInfo{
			CreateTime: aws.Time(k.Created), KeyFingerprint: aws.String(k.Fingerprint), KeyName: aws.String(k.Name),
			KeyPairId: aws.String(k.ID), KeyType: types.KeyType(k.Type), Tags: tagList(k.Tags),
		}
		if aws.ToBool(in.IncludePublicKey) {
			info.PublicKey = aws.String(k.PublicKey)
		}
		out.KeyPairs = append(out.KeyPairs, info)
	}
	return out, nil
}

// DeleteKeyPair forgets a key pair. One that is not there is no error;
// instances keep the key that they were given.
func (c *Cloud) DeleteKeyPair(ctx context.Context, in *ec2.DeleteKeyPairInput) (*ec2.DeleteKeyPairOutput, error) {
	name, id := aws.ToString(in.KeyName), aws.ToString(in.KeyPairId)
	if name == "" && id == "" {
		return nil, missing("KeyName")
	}
	if id != "" {
		if err := keyPairIDs.check(id); err != nil {
			return nil, err
		}
	}
	out := &ec2.DeleteKeyPairOutput{Return: aws.Bool(true)}
	err := c.db.Update(func(tx *state.Tx) error {
		all, err := state.List[state.KeyPair](tx, from(ctx).Scope)
		if err != nil {
			return err
		}
		for _, k := range all {
			if (id == "" || k.ID == id) && (name == "" || k.Name == name) {
				out.KeyPairId = aws.String(k.ID)
				return state.Delete(tx, k)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
