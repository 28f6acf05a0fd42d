package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dr-syncer/dr-syncer/test/world"
)

// scope is what prod and dr must have in common.
var scope = world.Scope{
	Namespaces: map[string]string{"shop": "shop", "shop-data": "shop-data", "shop-preview": "shop-preview"},
	ClusterScoped: []string{
		"apiextensions.k8s.io/customresourcedefinitions coupons.shop.example.com",
		"apiextensions.k8s.io/customresourcedefinitions giftcards.shop.example.com",
		"scheduling.k8s.io/priorityclasses shop-critical",
		"rbac.authorization.k8s.io/clusterroles shop-auditor",
		"rbac.authorization.k8s.io/clusterrolebindings shop-auditor",
	},
}

// compare compares both clusters object by object until they are the same, for a while.
func (s *stage) compare(ctx context.Context, scope world.Scope) (c world.Comparison, err error) {
	err = retry(ctx, 20*time.Second, func() error {
		var err error
		if c, err = world.Compare(ctx, s.world.Prod.Client().REST(), s.world.DR.Client().REST(), scope); err != nil {
			return err
		}
		home := slices.Index(c.Missing, heldBack)
		if home < 0 {
			return fmt.Errorf("%s is in dr, and its label says that it must not be", heldBack)
		}
		c.Missing = slices.Delete(c.Missing, home, home+1)
		if !c.OK() {
			return fmt.Errorf("%s", c)
		}
		return nil
	})
	return c, err
}

// verdict compares both clusters and says what is so.
func (s *stage) verdict(ctx context.Context, p *printer) (bool, error) {
	p.act("The verdict")
	end := p.row("", "comparing prod and dr, object by object, dr asleep")
	c, err := s.compare(ctx, scope)
	if ctx.Err() != nil {
		end("")
		return false, ctx.Err()
	}
	if err != nil {
		end(p.red("they differ"))
		p.line("%s", err)
	} else {
		end(p.green(fmt.Sprintf("%d equal, 0 different", c.Equal)))
	}
	out, getErr := s.world.DR.Kubectl("get", "namespace", "sandbox", "--ignore-not-found", "-o", "name")
	if getErr != nil {
		return false, getErr
	}
	stranger := strings.TrimSpace(out) != ""
	end = p.row("", "what was not asked for (sandbox, the ignored Secret)")
	if stranger {
		end(p.red("sandbox is in dr"))
	} else if err == nil {
		end(p.green("not in dr"))
	} else {
		end("")
	}
	if len(s.took) > 0 {
		slices.Sort(s.took)
		p.row("", fmt.Sprintf("%d changes, from the write in prod to a watch of dr", len(s.took)))(
			fmt.Sprintf("median %d ms, slowest %d ms", s.took[len(s.took)/2].Milliseconds(), s.took[len(s.took)-1].Milliseconds()))
	}
	if out, err := s.world.DR.Kubectl("get", "replications", "--all-namespaces"); err == nil {
		p.line("\n%s\n%s", p.dim("$ kubectl get replications -A"), strings.TrimRight(out, "\n"))
	}
	good := err == nil && !stranger && s.missing == 0
	if good {
		p.line("\n%s", p.green(p.bold("dr is what prod is, asleep. It could take over now.")))
	} else {
		s.logs(p)
		p.line("\n%s", p.red(p.bold("dr is NOT what prod is.")))
	}
	return good, nil
}

// failover wakes dr and compares again: now without any allowance for sleep.
func (s *stage) failover(ctx context.Context, p *printer) (bool, error) {
	p.act("Wake dr: spec.standby.enabled: false")
	end := p.row("wake", "Deployment shop/web: 6 replicas again")
	e := s.inDR.expect("Deployment shop/web", field("spec.replicas", "6"))
	if out, err := s.world.DR.Kubectl("patch", "replication", "shop", "-n", "default", "--type=merge", "-p", `{"spec":{"standby":{"enabled":false}}}`); err != nil {
		end(p.red("failed"))
		return false, fmt.Errorf("wake dr: %w: %s", err, out)
	}
	asked := time.Now()
	missing := s.missing
	if err := s.arrived(ctx, p, e, asked, end, ""); err != nil {
		return false, err
	}
	awake := scope
	awake.Awake = true
	end = p.row("", "comparing prod and dr, object by object, dr awake")
	c, err := s.compare(ctx, awake)
	switch {
	case ctx.Err() != nil:
		end("")
		return false, ctx.Err()
	case err != nil || s.missing > missing:
		end(p.red("they differ"))
		p.line("%v", err)
		s.logs(p)
		return false, nil
	}
	end(p.green(fmt.Sprintf("%d equal, 0 different", c.Equal)))
	p.line("\n%s", p.green(p.bold("dr is awake, and is what prod is.")))
	return true, nil
}
