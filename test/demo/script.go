package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed giftcards.yaml
var giftcards string

// heldBack is in prod and must never be in dr: it carries the label that says so.
const heldBack = "secrets shop/break-glass"

// play runs the script. It reports whether everything arrived and both clusters are equal.
func (s *stage) play(ctx context.Context, p *printer) (bool, error) {
	if err := s.firstCopy(ctx, p); err != nil {
		return false, err
	}
	p.act("Life in prod goes on (edit, scale, create, delete), and in dr:")
	for _, c := range s.changes() {
		if err := s.perform(ctx, p, c); err != nil {
			return false, err
		}
	}
	for _, f := range []func(context.Context, *printer) error{s.burst, s.crowd, s.newKind, s.dropNamespace} {
		if err := f(ctx, p); err != nil {
			return false, err
		}
	}
	equal, err := s.verdict(ctx, p)
	if err != nil || !equal {
		return false, err
	}
	return s.failover(ctx, p)
}

// firstCopy creates the Replication and shows how the application arrives.
func (s *stage) firstCopy(ctx context.Context, p *printer) error {
	keys, err := appKeys()
	if err != nil {
		return err
	}
	var wanted []*expectation
	for _, key := range keys {
		if !strings.Contains(key, "sandbox") { // which the Replication does not select
			wanted = append(wanted, s.inDR.expect(key, exists))
		}
	}
	p.act("A Replication in dr: namespaces shop and shop-*, everything in them")
	if err := s.world.DR.Apply(replication); err != nil {
		return fmt.Errorf("create the Replication: %w", err)
	}
	created := time.Now()
	var arrived []*expectation
	for _, e := range wanted {
		_, err := s.inDR.wait(ctx, e, max(time.Millisecond, patience-time.Since(created)))
		switch {
		case err == nil:
			arrived = append(arrived, e)
		case errors.Is(err, errNotSeen):
			s.missing++
			p.row(p.red("missing"), e.key)(p.red("not in dr"))
		default:
			return err
		}
	}
	if len(arrived) == 0 {
		s.logs(p)
		return errDiffers
	}
	slices.SortFunc(arrived, func(a, b *expectation) int { return a.at.Compare(b.at) })
	var kinds []string
	names, last := map[string][]string{}, map[string]time.Time{}
	for _, e := range arrived {
		kind, name, _ := strings.Cut(e.key, " ")
		if names[kind] == nil {
			kinds = append(kinds, kind)
		}
		names[kind] = append(names[kind], path.Base(name))
		last[kind] = e.at
	}
	for _, kind := range kinds {
		list := fit(strings.Join(names[kind], ", "), width-14-len(kind))
		p.row(fmt.Sprintf("%8d", len(names[kind])), kind+" "+p.dim(list))(p.ms(last[kind].Sub(created)))
	}
	p.line("  %s", p.dim(fmt.Sprintf("%d objects; times count from the Replication's creation", len(arrived))))
	return nil
}

// appKeys lists the objects of the application.
func appKeys() ([]string, error) {
	files, err := app.ReadDir("app")
	if err != nil {
		return nil, fmt.Errorf("read the application: %w", err)
	}
	var all []string
	for _, f := range files {
		text, err := app.ReadFile("app/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("read the application: %w", err)
		}
		keys, err := keysOf(text)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}

// change is one thing that happens in prod and what has to be seen in dr then.
type change struct {
	label, what string
	do          func(ctx context.Context) error
	key         string
	met         func(body []byte) bool
}

// changes are the single changes, in order.
func (s *stage) changes() []change {
	patch := func(kind, namespace, name, merge string) func(context.Context) error {
		return func(ctx context.Context) error { return s.prod.patch(ctx, kind, namespace, name, merge) }
	}
	create := func(text string) func(context.Context) error {
		return func(ctx context.Context) error { return s.prod.create(ctx, text) }
	}
	remove := func(kind, namespace, name string) func(context.Context) error {
		return func(ctx context.Context) error { return s.prod.delete(ctx, kind, namespace, name) }
	}
	return []change{
		{
			"edit", "ConfigMap shop/feature-flags: checkout v1 -> v2",
			patch("ConfigMap", "shop", "feature-flags", `{"data":{"checkout":"v2"}}`),
			"ConfigMap shop/feature-flags", field("data.checkout", "v2"),
		},
		{
			"edit", "Secret shop-data/db: a new password",
			patch("Secret", "shop-data", "db", `{"stringData":{"password":"second-password"}}`),
			"Secret shop-data/db", field("data.password", "c2Vjb25kLXBhc3N3b3Jk"),
		},
		{
			"scale", "Deployment shop/web: 3 -> 6 replicas (asleep in dr)",
			patch("Deployment", "shop", "web", `{"spec":{"replicas":6}}`),
			"Deployment shop/web", field(`metadata.annotations.dr-syncer\.io/original-replicas`, "6"),
		},
		{
			"roll out", "Deployment shop/worker: image 2.4.1 -> 2.5.0",
			patch("Deployment", "shop", "worker", `{"spec":{"template":{"spec":{"containers":[{"name":"worker","image":"registry.example.com/shop/worker:2.5.0"}]}}}}`),
			"Deployment shop/worker", field("spec.template.spec.containers.0.image", "registry.example.com/shop/worker:2.5.0"),
		},
		{
			"edit", "Ingress shop/shop: a second host's name",
			patch("Ingress", "shop", "shop", `{"spec":{"rules":[{"host":"www.shop.example.com","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"web","port":{"name":"http"}}}}]}}]}}`),
			"Ingress shop/shop", field("spec.rules.0.host", "www.shop.example.com"),
		},
		{
			"label", "Namespace shop: tier=gold",
			patch("Namespace", "", "shop", `{"metadata":{"labels":{"tier":"gold"}}}`),
			"Namespace shop", field("metadata.labels.tier", "gold"),
		},
		{
			"edit", "Coupon shop/welcome: 10 -> 15 percent",
			patch("Coupon", "shop", "welcome", `{"spec":{"percent":15}}`),
			"Coupon shop/welcome", field("spec.percent", "15"),
		},
		{
			"create", "Service shop/search",
			create(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"search","namespace":"shop"},"spec":{"selector":{"app":"search"},"ports":[{"port":9200}]}}`),
			"Service shop/search", exists,
		},
		{
			"create", "Deployment shop/search",
			create(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"search","namespace":"shop"},"spec":{"selector":{"matchLabels":{"app":"search"}},` +
				`"template":{"metadata":{"labels":{"app":"search"}},"spec":{"containers":[{"name":"search","image":"registry.example.com/search:1"}]}}}}`),
			"Deployment shop/search", exists,
		},
		{
			"create", "Secret shop/break-glass, labeled dr-syncer.io/ignore",
			create(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"break-glass","namespace":"shop","labels":{"dr-syncer.io/ignore":"true"}},"stringData":{"key":"stays-home"}}`),
			"", nil, // the verdict shows that it did not arrive
		},
		{
			"delete", "CronJob shop-data/backup",
			remove("CronJob", "shop-data", "backup"), "CronJob shop-data/backup", gone,
		},
		{
			"delete", "Coupon shop/black-friday",
			remove("Coupon", "shop", "black-friday"), "Coupon shop/black-friday", gone,
		},
		{
			"replace", "ConfigMap shop/api: deleted, created at once anew",
			func(ctx context.Context) error {
				return errors.Join(s.prod.delete(ctx, "ConfigMap", "shop", "api"),
					s.prod.create(ctx, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"api","namespace":"shop"},"data":{"LOG_LEVEL":"debug"}}`))
			},
			"ConfigMap shop/api", field("data.LOG_LEVEL", "debug"),
		},
	}
}

// perform does one change in prod and waits for it in dr.
func (s *stage) perform(ctx context.Context, p *printer, c change) error {
	end := p.row(c.label, c.what)
	var e *expectation
	if c.key != "" {
		e = s.inDR.expect(c.key, c.met)
	}
	if err := c.do(ctx); err != nil {
		end(p.red("failed"))
		return err
	}
	written := time.Now()
	if e == nil {
		end(p.dim("      stays home"))
		return nil
	}
	return s.arrived(ctx, p, e, written, end, "")
}

// arrived ends a row with how long after the write the expectation was met.
func (s *stage) arrived(ctx context.Context, p *printer, e *expectation, written time.Time, end func(string), note string) error {
	at, err := s.inDR.wait(ctx, e, patience)
	switch {
	case errors.Is(err, errNotSeen):
		s.missing++
		end(p.red("not in dr after " + patience.String()))
		return nil
	case err != nil:
		end(p.red("failed"))
		return err
	}
	took := max(0, at.Sub(written))
	s.took = append(s.took, took)
	end(p.ms(took) + p.dim(note))
	return nil
}

// burst edits one object many times: the last state counts.
func (s *stage) burst(ctx context.Context, p *printer) error {
	const edits = 100
	key := "ConfigMap shop/ticker"
	end := p.row("burst", fmt.Sprintf("%s: %d edits as fast as they go", key, edits))
	before := s.inDR.count(key)
	e := s.inDR.expect(key, field("data.revision", fmt.Sprint(edits)))
	for i := range edits {
		if err := s.prod.patch(ctx, "ConfigMap", "shop", "ticker", fmt.Sprintf(`{"data":{"revision":"%d"}}`, i+1)); err != nil {
			end(p.red("failed"))
			return err
		}
	}
	written := time.Now()
	if _, err := s.inDR.wait(ctx, e, patience); err != nil && !errors.Is(err, errNotSeen) {
		end(p.red("failed"))
		return err
	}
	return s.arrived(ctx, p, e, written, end, fmt.Sprintf("  with %d writes", s.inDR.count(key)-before))
}

// crowd creates many objects at once and waits for the last of them.
func (s *stage) crowd(ctx context.Context, p *printer) error {
	const orders = 300
	end := p.row("create", fmt.Sprintf("%d ConfigMaps shop/order-*, 8 at a time", orders))
	wanted := make([]*expectation, orders)
	for i := range wanted {
		wanted[i] = s.inDR.expect(fmt.Sprintf("ConfigMap shop/order-%03d", i), exists)
	}
	var g errgroup.Group
	g.SetLimit(8)
	var first atomic.Int64
	for i := range wanted {
		g.Go(func() error {
			first.CompareAndSwap(0, time.Now().UnixNano())
			return s.prod.create(ctx, fmt.Sprintf(
				`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"order-%03d","namespace":"shop"},"data":{"items":"%d"}}`, i, i%7+1))
		})
	}
	if err := g.Wait(); err != nil {
		end(p.red("failed"))
		return err
	}
	written := time.Now()
	var last time.Time
	for _, e := range wanted {
		at, err := s.inDR.wait(ctx, e, patience)
		if errors.Is(err, errNotSeen) {
			s.missing++
			end(p.red("not all in dr after " + patience.String()))
			return nil
		}
		if err != nil {
			end(p.red("failed"))
			return err
		}
		if at.After(last) {
			last = at
		}
	}
	rate := orders / last.Sub(time.Unix(0, first.Load())).Seconds()
	s.took = append(s.took, max(0, last.Sub(written)))
	end(p.ms(last.Sub(written)) + p.dim(fmt.Sprintf("  after the last; %.0f/s all the way", rate)))
	return nil
}

// newKind defines a kind that neither product knew of and creates an object of it.
func (s *stage) newKind(ctx context.Context, p *printer) error {
	end := p.row("define", "a new kind, GiftCard, and GiftCard shop/grandma")
	e := s.inDR.expect("GiftCard shop/grandma", exists)
	served := s.inProd.expect("CustomResourceDefinition giftcards.shop.example.com", func(body []byte) bool {
		return field(`status.conditions.#(type=="Established").status`, "True")(body)
	})
	err := s.prod.create(ctx, giftcards)
	if err == nil {
		_, err = s.inProd.wait(ctx, served, patience)
	}
	if err == nil {
		err = retry(ctx, 5*time.Second, func() error {
			return s.prod.create(ctx, `{"apiVersion":"shop.example.com/v1","kind":"GiftCard","metadata":{"name":"grandma","namespace":"shop"},"spec":{"amount":50}}`)
		})
	}
	if err != nil {
		end(p.red("failed"))
		return err
	}
	return s.arrived(ctx, p, e, time.Now(), end, "")
}

// dropNamespace deletes a namespace with all that is in it.
func (s *stage) dropNamespace(ctx context.Context, p *printer) error {
	end := p.row("delete", "Namespace shop-preview and all in it")
	source := s.inProd.expect("Namespace shop-preview", gone)
	e := s.inDR.expect("Namespace shop-preview", gone)
	if err := s.prod.delete(ctx, "Namespace", "", "shop-preview"); err != nil {
		end(p.red("failed"))
		return err
	}
	at, err := s.inProd.wait(ctx, source, 2*patience)
	if err != nil {
		end(p.red("failed"))
		return fmt.Errorf("wait until prod has deleted the namespace: %w", err)
	}
	before := len(s.took)
	err = s.arrived(ctx, p, e, at, end, "  after it was gone in prod")
	s.took = s.took[:before] // dr's own cleaning up of a namespace is not ours to count
	return err
}

// retry tries f until it succeeds or the limit is over.
func retry(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
