package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"
	"github.com/tidwall/gjson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Settings say which API server to talk to and how.
type Settings struct {
	// Kubeconfig is a path. Empty means $KUBECONFIG, then ~/.kube/config, then
	// the service account of the Pod that this runs in.
	Kubeconfig string
	// Context is a context of the kubeconfig, empty for its current one.
	Context string
	// QPS limits the requests per second of this client. 0 or less means no limit: the
	// server's priority and fairness is in charge. (client-go's own default of
	// 5 per second would make every large cluster late.)
	QPS float32
	// Burst is how many requests may go at once beyond QPS; 0 means twice QPS.
	Burst int
	// UserAgent names the program in the server's audit log; empty means "dr-syncer".
	UserAgent string
}

// Client is a connection to one API server. It is safe for concurrent use.
type Client struct {
	config *rest.Config
	rest   *rest.RESTClient
	http   *http.Client
	kinds  kindCache
}

// Connect reads the configuration and prepares a client. It makes no request.
func Connect(s Settings) (*Client, error) {
	config, err := load(s)
	if err != nil {
		return nil, err
	}
	config.UserAgent = s.UserAgent
	if config.UserAgent == "" {
		config.UserAgent = "dr-syncer"
	}
	config.QPS, config.Burst = s.QPS, s.Burst
	switch {
	case s.QPS <= 0:
		config.QPS = -1
	case s.Burst <= 0:
		config.Burst = max(1, int(2*s.QPS))
	}
	config.WarningHandler = rest.NoWarnings{}

	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("prepare connection to %q: %w: check the certificates and credentials in the kubeconfig", config.Host, err)
	}
	raw := rest.CopyConfig(config)
	raw.ContentType = runtime.ContentTypeJSON
	raw.NegotiatedSerializer = statusSerializer()
	client, err := rest.UnversionedRESTClientForConfigAndClient(raw, httpClient)
	if err != nil {
		return nil, fmt.Errorf("prepare client of %q: %w", config.Host, err)
	}
	return &Client{config: config, rest: client, http: httpClient, kinds: newKindCache()}, nil
}

// load finds the configuration.
func load(s Settings) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.Kubeconfig
	where := s.Kubeconfig
	if where == "" {
		where = os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	}
	if where == "" {
		where = filepath.Join(clientcmd.RecommendedConfigDir, clientcmd.RecommendedFileName)
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: s.Context}).ClientConfig()
	switch {
	case err == nil:
		return config, nil
	case clientcmd.IsEmptyConfig(err):
		return nil, errors.New("no cluster configured: give --kubeconfig, set $KUBECONFIG, or run in a Pod with a service account")
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("load kubeconfig: file %q does not exist: check --kubeconfig and $KUBECONFIG", where)
	case clientcmd.IsContextNotFound(err), s.Context != "" && strings.Contains(err.Error(), "context"):
		return nil, fmt.Errorf("load kubeconfig %q: %w: `kubectl config get-contexts` lists the contexts", where, err)
	default:
		return nil, fmt.Errorf("load kubeconfig %q: %w: `kubectl --kubeconfig %s get namespaces` must work", where, err, where)
	}
}

// statusSerializer decodes nothing but metav1.Status, the form of the server's errors.
func statusSerializer() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}

// REST returns a copy of the client's configuration, for controller-runtime and
// leader election.
func (c *Client) REST() *rest.Config { return rest.CopyConfig(c.config) }

// Host is the server's URL.
func (c *Client) Host() string { return c.config.Host }

// Close gives up idle connections. The client stays usable.
func (c *Client) Close() { utilnet.CloseIdleConnectionsFor(c.http.Transport) }

// Ping finds out whether the server can be reached and accepts the credentials.
// Its error says which of the two fails, and what to check.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.do(ctx, c.rest.Get().AbsPath("/api").MaxRetries(0))
	var dns *net.DNSError
	switch {
	case err == nil:
		return nil
	case IsUnauthorized(err):
		return fmt.Errorf("API server %s does not accept the credentials: %w: check user and token or certificate in the kubeconfig", c.config.Host, err)
	case IsForbidden(err):
		return fmt.Errorf("API server %s does not permit discovery to this user: %w: check the credentials, and that the user is bound to system:discovery", c.config.Host, err)
	case isTLS(err):
		return fmt.Errorf("TLS with API server %s fails: %w: check certificate-authority-data and the server address in the kubeconfig", c.config.Host, err)
	case errors.As(err, &dns):
		return fmt.Errorf("API server %s is unreachable: %w: check the host name in the kubeconfig", c.config.Host, err)
	default:
		return fmt.Errorf("API server %s is unreachable: %w: check its address in the kubeconfig, the network, and that it runs", c.config.Host, err)
	}
}

// ClusterUID returns the UID of the namespace kube-system, which tells one
// cluster (and one life of it) from another.
func (c *Client) ClusterUID(ctx context.Context) (string, error) {
	body, err := c.do(ctx, c.rest.Get().AbsPath("/api/v1/namespaces/kube-system").SetHeader("Accept", acceptMeta))
	if err != nil {
		return "", fmt.Errorf("read cluster identity: %w", err)
	}
	uid := gjson.GetBytes(body, "metadata.uid").String()
	if uid == "" {
		return "", pipeline.WithClass(pipeline.Malformed, errors.New("read cluster identity: namespace kube-system has no UID"))
	}
	return uid, nil
}

// do sends the request and returns the answer's body, or a classified error.
func (c *Client) do(ctx context.Context, r *rest.Request) ([]byte, error) {
	result := r.Do(quiet(ctx))
	if err := result.Error(); err != nil {
		return nil, classify(err)
	}
	body, err := result.Raw()
	return body, classify(err)
}

// stream sends the request and returns the answer's body as it comes.
func (c *Client) stream(ctx context.Context, r *rest.Request) (io.ReadCloser, error) {
	body, err := r.Stream(quiet(ctx))
	return body, classify(err)
}

// quiet keeps client-go from logging what its caller is told anyway.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }
