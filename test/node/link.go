package node

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
)

// Link is a cable between the machines of two clusters.
type Link struct {
	a, b *Cluster
	name string
	// addresses of the two ends
	at map[*Cluster]netip.Addr
}

// Join lays a cable between two clusters.
func (l *Lab) Join(ctx context.Context, a, b *Cluster) (*Link, error) {
	l.mu.Lock()
	n := l.links
	l.links++
	l.mu.Unlock()
	k := &Link{a: a, b: b, name: "link" + strconv.Itoa(n), at: map[*Cluster]netip.Addr{
		a: netip.AddrFrom4([4]byte{198, 19, byte(n), 1}), b: netip.AddrFrom4([4]byte{198, 19, byte(n), 2}),
	}}
	if err := run(ctx, "ip", "link", "add", k.name, "netns", pidOf(a), "type", "veth", "peer", "name", k.name, "netns", pidOf(b)); err != nil {
		return nil, fmt.Errorf("join %q and %q: %w", a.Name, b.Name, err)
	}
	for _, c := range []*Cluster{a, b} {
		if _, err := c.machine.run(ctx, "sh", "-ec", `ip address add "$1/30" dev "$2" && ip link set "$2" up`, "sh", k.at[c].String(), k.name); err != nil {
			return nil, fmt.Errorf("join %q and %q: %w", a.Name, b.Name, err)
		}
	}
	return k, nil
}

func pidOf(c *Cluster) string { return strconv.Itoa(c.machine.init.Process.Pid) }

// Address is where the other cluster, its Pods too, reaches cluster c.
func (k *Link) Address(c *Cluster) netip.Addr { return k.at[c] }

// Cut breaks the cable: what is sent over it is lost, and nobody is told. Cutting a
// cut cable does nothing.
func (k *Link) Cut(ctx context.Context) error {
	// Taking the interface down would tell the senders.
	return k.rules(ctx, "cut", `add table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain arriving {
		type filter hook prerouting priority -400; policy accept;
		iifname %[1]q drop
	}
}`)
}

// Heal mends it. Healing a whole cable does nothing.
func (k *Link) Heal(ctx context.Context) error {
	return k.rules(ctx, "heal", `add table inet %[1]s
delete table inet %[1]s`)
}

// rules sets the packet rules that stand for the state of the cable, at both ends.
func (k *Link) rules(ctx context.Context, verb, rules string) error {
	for _, c := range []*Cluster{k.a, k.b} {
		if _, err := c.machine.run(ctx, "nft", fmt.Sprintf(rules, k.name)); err != nil {
			return fmt.Errorf("%s the cable between %q and %q: %w", verb, k.a.Name, k.b.Name, err)
		}
	}
	return nil
}
