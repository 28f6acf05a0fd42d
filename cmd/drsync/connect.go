package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dr-syncer/dr-syncer/internal/app"
	"github.com/dr-syncer/dr-syncer/kube"
	"github.com/dr-syncer/dr-syncer/pipeline/natslog"
)

// reachTimeout bounds the first contact with the API server.
const reachTimeout = 15 * time.Second

// clusterFlags gives a command the flags that say which cluster.
func (c *cli) clusterFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&c.kube.Kubeconfig, "kubeconfig", c.kube.Kubeconfig, "kubeconfig of the cluster; $KUBECONFIG, ~/.kube/config or the Pod's service account if not given")
	fs.StringVar(&c.kube.Context, "context", c.kube.Context, "context in the kubeconfig; its current one if not given")
	fs.StringVar(&c.namespace, "system-namespace", c.namespace, "namespace of DR-Syncer itself in that cluster")
}

// logFlags gives a command the flags that say where the log is.
func (c *cli) logFlags(cmd *cobra.Command) {
	app.RegisterConnection(cmd.Flags(), &c.log, "", "NATS's default if not given")
}

// secretsFlag gives a command that shows objects the flag that unmasks them.
func (c *cli) secretsFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.showSecrets, "show-secrets", c.showSecrets, "show what Secrets hold, and parameters that come from them, instead of "+masked)
}

// cluster connects to the cluster and makes sure that it answers. Close the client.
func (c *cli) cluster(ctx context.Context) (*kube.Client, error) {
	settings := c.kube
	settings.UserAgent = "drsync"
	client, err := kube.Connect(settings)
	if err != nil {
		return nil, app.Usage(err)
	}
	reach, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := client.Ping(reach); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// connectLog connects to the log. Close the connection.
func (c *cli) connectLog(ctx context.Context) (*natslog.Conn, error) {
	if c.log.URL == "" {
		return nil, app.Usage(errors.New("--nats-url is missing: give the address of the log, such as nats://dr.example.com:4222 " +
			"(kubectl port-forward reaches one that is embedded in an applier)"))
	}
	if err := c.log.Validate(); err != nil {
		return nil, app.Usage(fmt.Errorf("connection to the log: %w", err))
	}
	conn, err := natslog.Connect(ctx, c.log)
	if err != nil {
		return nil, fmt.Errorf("%w: check --nats-url and the credentials and certificates given with --nats-…", err)
	}
	return conn, nil
}
