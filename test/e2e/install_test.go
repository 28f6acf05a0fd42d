//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/dr-syncer/dr-syncer/test/node"
)

// logPort is where the log is reached at dr's node.
const logPort = 32222

// install installs the product as docs and README say, with plain manifests: the log is
// in the applier, and the collector comes over the cable. When the test ends it is
// removed, and with failures the ends of its logs are shown.
func install(t *testing.T) {
	t.Helper()
	load(t, prod, "collector")
	load(t, dr, "applier")
	values := logValues(t, cable.Address(dr))
	apply(t, dr, permissions(t, "applier"))
	apply(t, dr, manifest(t, "destination.yaml", values))
	t.Cleanup(func() {
		tell(t, dr, "statefulset/dr-syncer-applier")
		remove(t, dr, "namespace/dr-syncer", "clusterrole/dr-syncer-applier", "clusterrolebinding/dr-syncer-applier")
	})
	crds, err := os.ReadDir(filepath.Join(root, "charts", "dr-syncer", "crds"))
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		text, err := os.ReadFile(filepath.Join(root, "charts", "dr-syncer", "crds", crd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		apply(t, dr, string(text))
	}
	apply(t, prod, permissions(t, "collector"))
	apply(t, prod, manifest(t, "source.yaml", values))
	t.Cleanup(func() {
		tell(t, prod, "deployment/dr-syncer-collector")
		remove(t, prod, "namespace/dr-syncer", "clusterrole/dr-syncer-collector", "clusterrolebinding/dr-syncer-collector")
	})
	rollout(t, dr, "dr-syncer", "statefulset/dr-syncer-applier")
	rollout(t, prod, "dr-syncer", "deployment/dr-syncer-collector")
}

// load makes the image of a product, as it is meant to be: the program and nothing else,
// not as root.
func load(t *testing.T, c *node.Cluster, product string) {
	t.Helper()
	if err := c.Load(t.Context(), node.Image{
		Name: "dr-syncer.test/" + product + ":e2e", Entrypoint: []string{"/" + product}, User: "65532",
		Files: []node.File{{Path: "/" + product, From: filepath.Join(root, "bin", product)}},
	}); err != nil {
		t.Fatal(err)
	}
}

// permissions are the objects that docs/rbac.md gives for a product.
func permissions(t *testing.T, product string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "rbac.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+strings.ToUpper(product[:1])+product[1:]+"\n")
	if ok {
		_, rest, ok = strings.Cut(rest, "\n```yaml\n")
	}
	objects, _, closed := strings.Cut(rest, "\n```\n")
	if !ok || !closed {
		t.Fatalf("docs/rbac.md has no section with YAML for the %s", product)
	}
	// The namespace of the Role is made with the product.
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: dr-syncer}\n---\n" + objects
}

// manifest reads a file of testdata and puts values in the place of $names.
func manifest(t *testing.T, name string, values map[string]string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return os.Expand(string(text), func(name string) string {
		value, ok := values[name]
		if !ok {
			t.Fatalf("there is no value for $%s", name)
		}
		return value
	})
}

// logValues makes what the two meet with at the log: a key pair for the site and a
// certificate for the address.
func logValues(t *testing.T, address netip.Addr) map[string]string {
	t.Helper()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "log"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{address.AsSlice()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	return map[string]string{
		"seed":        enc(seed),
		"users":       enc(fmt.Appendf(nil, "prod %s\n", public)),
		"certificate": enc(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		"key":         enc(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"log":         net.JoinHostPort(address.String(), strconv.Itoa(logPort)),
		"port":        strconv.Itoa(logPort),
	}
}
