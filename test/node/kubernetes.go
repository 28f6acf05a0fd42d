package node

import (
	"fmt"
	"path/filepath"
)

// kubeletConfig is that of a node that is not alone on its machine: with the cgroup that
// all of its Pods' are in, and its address.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: true} # only this machine and the cluster's own Pods reach it
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
address: %[2]s
cgroupDriver: cgroupfs
cgroupRoot: /%[1]s
cgroupsPerQOS: true
containerRuntimeEndpoint: unix://` + socket + `
enforceNodeAllocatable: []
evictionHard: {}
failCgroupV1: false
failSwapOn: false
healthzPort: 0
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
localStorageCapacityIsolation: false
podLogsDir: /var/log/pods
protectKernelDefaults: false
readOnlyPort: 0
resolvConf: ""
syncFrequency: 5s
volumePluginDir: /var/lib/kubelet/plugins-exec
`

// proxyConfig is kube-proxy's, with the path of a kubeconfig and the range of the Pods.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
clusterCIDR: %s
conntrack: {maxPerCore: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
healthzBindAddress: ""
metricsBindAddress: 127.0.0.1:10249
mode: nftables
nodePortAddresses: [0.0.0.0/0] # other clusters come by a cable, not by the node's first address
`

// startKubernetes starts the scheduler and what makes the machine a node.
func (c *Cluster) startKubernetes() error {
	if err := c.writeEtc(map[string]string{
		"kubelet.yaml": fmt.Sprintf(kubeletConfig, cgroupOf(c.machine.dir), c.machine.address),
		"proxy.yaml":   fmt.Sprintf(proxyConfig, c.Kubeconfig(), c.machine.pods),
	}); err != nil {
		return err
	}
	program := filepath.Join(c.lab.cfg.Tools, "node", "kube-node")
	for _, line := range [][]string{
		{"kube-scheduler", "--kubeconfig=" + c.Kubeconfig(), "--leader-elect=false", "--secure-port=0"},
		{"kube-proxy", "--config=" + c.etc("proxy.yaml"), "--hostname-override=" + c.Name},
		{
			"kubelet", "--config=" + c.etc("kubelet.yaml"), "--kubeconfig=" + c.Kubeconfig(), "--root-dir=/var/lib/kubelet",
			"--cert-dir=/var/lib/kubelet/pki", "--hostname-override=" + c.Name, "--node-ip=" + c.machine.address.String(),
		},
	} {
		if err := c.launch(line[0], append([]string{program}, line...)...); err != nil {
			return err
		}
	}
	return nil
}
