package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// key is a public nkey of nobody.
const key = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

// execute runs the command to its end and returns its exit code and what it said.
func execute(ctx context.Context, args ...string) (int, string) {
	cmd := newCommand() //nolint:contextcheck // it is handed ctx when it is executed
	cmd.SetArgs(args)
	var stderr bytes.Buffer
	code := app.Execute(ctx, cmd, &stderr)
	return code, stderr.String()
}

func TestBadFlags(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := map[string]struct {
		args []string
		want string
	}{
		"Destination":    {[]string{"--destination=DR"}, `--destination "DR" is no name`},
		"Namespace":      {[]string{"--namespace="}, "--namespace is empty"},
		"Listen":         {[]string{"--listen=8080"}, "--listen"},
		"NatsListen":     {[]string{"--nats-listen=4222"}, "--nats-listen"},
		"NatsPort":       {[]string{"--nats-listen=127.0.0.1:nats"}, "not a number from 1 to 65535"},
		"Open":           {[]string{"--nats-listen=0.0.0.0:4222"}, "lets everybody who reaches it write to the log: give --nats-users-file"},
		"Plain":          {[]string{"--nats-listen=0.0.0.0:4222", "--nats-users-file=" + file("users", "prod "+key)}, "over the network as it is: give --nats-tls-cert"},
		"NoDestination":  {[]string{"--destination="}, `--destination "" is no name`},
		"NoUsersFile":    {[]string{"--nats-users-file=" + filepath.Join(dir, "none")}, "check --nats-users-file"},
		"EmptyUsersFile": {[]string{"--nats-users-file=" + file("empty", "# nobody\n")}, "names nobody"},
		"UsersLine":      {[]string{"--nats-users-file=" + file("line", "\nprod\n")}, "line 2: write a site and its public nkey"},
		"UsersSite":      {[]string{"--nats-users-file=" + file("site", "Prod "+key)}, `line 1: "Prod" is no name of a site`},
		"UsersKey":       {[]string{"--nats-users-file=" + file("key", "prod SUAB")}, "not a public user nkey"},
		"LinkListen":     {[]string{"--link-listen=7422"}, "--link-listen"},
		"LinkNobody":     {[]string{"--link-listen=127.0.0.1:7422"}, "lets nobody in: give a --nats-users-file"},
		"LinkNowhere":    {[]string{"--nats-users-file=" + file("link", "prod "+key+" link")}, "names links: give --link-listen"},
		"LinkPlain":      {[]string{"--link-listen=0.0.0.0:7422", "--nats-users-file=" + file("link", "prod "+key+" link")}, "--link-listen 0.0.0.0:7422 would send"},
		"LinkOfAll":      {[]string{"--nats-users-file=" + file("all", "* "+key+" link")}, "a link is of one site"},
		"LinkAndURL":     {[]string{"--nats-url=nats://x:4222", "--link-listen=127.0.0.1:7422"}, "--link-listen is for the embedded log"},
		"HalfTLS":        {[]string{"--nats-tls-cert=x"}, "TLS needs both"},
		"URL":            {[]string{"--nats-url=http://x"}, "does not start with nats://"},
		"SmallSnapshots": {[]string{"--snapshots-max-bytes=1"}, "--snapshots-max-bytes: 1 bytes are too few"},
		"TwoLogs":        {[]string{"--nats-url=nats://x:4222", "--store-dir=" + dir}, "--store-dir is for the embedded log"},
		"NoLog":          {[]string{"--nats-creds=x"}, "--nats-creds is for a log elsewhere"},
		"Kubeconfig":     {[]string{"--kubeconfig=" + filepath.Join(dir, "none")}, filepath.Join(dir, "none")},
		"BadKubeconfig":  {[]string{"--kubeconfig=" + file("config", "{nonsense")}, filepath.Join(dir, "config")},
		"Unknown":        {[]string{"--site=x"}, "unknown flag: --site"},
		"Argument":       {[]string{"prod"}, `"prod"`},
		"LogLevel":       {[]string{"--log-level=loud"}, "not one of debug, info, warn, error"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--listen="}, tc.args...)
			code, stderr := execute(t.Context(), args...)
			if code != app.ExitUsage || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "applier: ") {
				t.Errorf("exit code %d, %q; want %d and one line with %q", code, stderr, app.ExitUsage, tc.want)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	got, err := parseUsers("# collectors\nprod-nyc " + key + "\n\n  prod-fra\tUB # of Frankfurt\n* UC\nprod-sfo UD link")
	if err != nil {
		t.Fatal(err)
	}
	want := []natslog.User{{Site: "prod-nyc", NKey: key}, {Site: "prod-fra", NKey: "UB"}, {NKey: "UC"}, {Site: "prod-sfo", NKey: "UD", Leaf: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("users (-want +got)\n%s", diff)
	}
}

func TestListening(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("prod "+key), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		args []string
		host string
		port int
	}{
		"Default":  {nil, "127.0.0.1", 4222},
		"Nowhere":  {[]string{"--nats-listen="}, "", 0},
		"Everyone": {[]string{"--nats-listen=:4222", "--nats-no-auth"}, "", 4222},
		"Plain":    {[]string{"--nats-listen=:4222", "--nats-users-file=" + users, "--nats-no-tls"}, "", 4222},
		"IPv6":     {[]string{"--nats-listen=[::1]:5222"}, "::1", 5222},
		"Name":     {[]string{"--nats-listen=localhost:5222"}, "localhost", 5222},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := defaultOptions()
			cmd := newCommand()
			cmd.ResetFlags()
			o.registerFlags(cmd.Flags())
			if err := cmd.ParseFlags(tc.args); err != nil {
				t.Fatal(err)
			}
			if err := o.validate(cmd.Flags().Changed); err != nil {
				t.Fatal(err)
			}
			if o.server.Host != tc.host || o.server.Port != tc.port {
				t.Errorf("listens at %q, %d; want %q, %d", o.server.Host, o.server.Port, tc.host, tc.port)
			}
		})
	}
}
