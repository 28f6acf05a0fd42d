package main

import (
	"fmt"
	"net/url"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcdCommand is a single-member etcd without fsync: right for tests, wrong
// for any claim about durability.
func newEtcdCommand() *cobra.Command {
	var dir, clientAddr, peerAddr string
	cmd := &cobra.Command{
		Use:           "etcd",
		Short:         "Run a single-member etcd without fsync",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			cfg := embed.NewConfig()
			cfg.Dir = dir
			cfg.UnsafeNoFsync = true
			cfg.LogLevel = "warn"
			cfg.QuotaBackendBytes = 4 << 30
			client := url.URL{Scheme: "http", Host: clientAddr}
			peer := url.URL{Scheme: "http", Host: peerAddr}
			cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
			cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
			cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
			e, err := embed.StartEtcd(cfg)
			if err != nil {
				return fmt.Errorf("start etcd in %q: %w", dir, err)
			}
			defer e.Close()
			select {
			case err := <-e.Err():
				return fmt.Errorf("run etcd: %w", err)
			case <-ctx.Done():
				return nil
			}
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "data directory")
	cmd.Flags().StringVar(&clientAddr, "client-addr", "127.0.0.1:2379", "address clients connect to")
	cmd.Flags().StringVar(&peerAddr, "peer-addr", "127.0.0.1:2380", "address of the peer protocol")
	return cmd
}
