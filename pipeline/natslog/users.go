package natslog

import (
	"fmt"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// Every site with users is an account of its own at the embedded server, while
// the log lies in the global account. What the site's account may do there are
// the services below, by exact subjects: NATS resolves the replies to them
// within the asking account, so that not even a reply subject reaches into
// another site. Permissions alone could not do that.

// service is a subject of the global account that a site may ask. In the
// site's account it has a name of its own if from is set: there "$JS.API" is
// taken by the server, which answers that the site's account keeps no streams.
type service struct {
	from, to string
	// streamed services answer with more than one message.
	streamed bool
}

// sitePrefix is what stands for "$JS.API" in a site's account.
const sitePrefix = "drs.api"

func (s site) services() []service {
	var list []service
	for _, subject := range []string{
		s.objects(), s.marks(), s.claimSubject() + ".>", s.control() + ".*",
		apiPrefix + "DIRECT.GET." + s.claims() + "." + s.claimSubject() + ".>",
	} {
		list = append(list, service{from: subject, to: subject})
	}
	for slot := range readerSlots {
		info, next := "CONSUMER.INFO.*."+s.readerName(slot), "CONSUMER.MSG.NEXT.*."+s.readerName(slot)
		list = append(list,
			service{from: sitePrefix + "." + info, to: apiPrefix + info},
			service{from: sitePrefix + "." + next, to: apiPrefix + next, streamed: true})
	}
	return list
}

func (s site) account() string { return "site_" + s.token }

// permissions of a site's users within their account.
func (s site) permissions() *natsserver.Permissions {
	var subjects []string
	for _, svc := range s.services() {
		subjects = append(subjects, svc.from)
	}
	return &natsserver.Permissions{
		Publish:   &natsserver.SubjectPermission{Allow: subjects},
		Subscribe: &natsserver.SubjectPermission{Allow: []string{SiteInboxPrefix(s.name) + ".>"}},
	}
}

// operatorPermissions are for users without a site: everything but destroying
// history.
func operatorPermissions() *natsserver.Permissions {
	return &natsserver.Permissions{
		Publish: &natsserver.SubjectPermission{
			Allow: []string{">"},
			Deny: []string{
				apiPrefix + "STREAM.DELETE.>", apiPrefix + "STREAM.MSG.DELETE.>", apiPrefix + "STREAM.RESTORE.>",
				apiPrefix + "ACCOUNT.>", apiPrefix + "SERVER.>",
			},
		},
		Subscribe: &natsserver.SubjectPermission{Allow: []string{">"}},
	}
}

// guarded reports whether connections need a key.
func (s *Server) guarded() bool { return len(s.cfg.Users) > 0 || s.cfg.Link != nil }

// admit sets up who may connect. Without users everybody may.
func (s *Server) admit(opts *natsserver.Options) error {
	if !s.guarded() {
		return nil
	}
	public, err := s.owner.PublicKey()
	if err != nil {
		return fmt.Errorf("read the key of this process: %w", err)
	}
	opts.Nkeys = append(opts.Nkeys, &natsserver.NkeyUser{Nkey: public})
	accounts := map[string]*natsserver.Account{}
	for _, u := range s.cfg.Users {
		if u.Site == "" {
			opts.Nkeys = append(opts.Nkeys, &natsserver.NkeyUser{Nkey: u.NKey, Permissions: operatorPermissions()})
			continue
		}
		of := siteOf(u.Site)
		if u.Leaf {
			opts.Nkeys = append(opts.Nkeys, &natsserver.NkeyUser{
				Nkey: u.NKey, Permissions: of.linkPermissions(),
				AllowedConnectionTypes: map[string]struct{}{"LEAFNODE": {}, "LEAFNODE_WS": {}},
			})
			continue
		}
		account, ok := accounts[of.account()]
		if !ok {
			account = natsserver.NewAccount(of.account())
			accounts[of.account()] = account
			opts.Accounts = append(opts.Accounts, account)
		}
		opts.Nkeys = append(opts.Nkeys, &natsserver.NkeyUser{Nkey: u.NKey, Account: account, Permissions: of.permissions()})
	}
	return nil
}

// connectAccounts lets the sites' accounts reach their services.
func (s *Server) connectAccounts(inner *natsserver.Server) error {
	done := map[string]bool{}
	for _, u := range s.cfg.Users {
		if u.Site == "" || u.Leaf || done[u.Site] {
			continue
		}
		done[u.Site] = true
		of := siteOf(u.Site)
		account, err := inner.LookupAccount(of.account())
		if err != nil {
			return fmt.Errorf("look up the account of site %q: %w", u.Site, err)
		}
		for _, svc := range of.services() {
			kind := natsserver.Singleton
			if svc.streamed {
				kind = natsserver.Streamed
			}
			log := inner.GlobalAccount()
			if err := log.AddServiceExportWithResponse(svc.to, kind, []*natsserver.Account{account}); err != nil {
				return fmt.Errorf("export %q: %w", svc.to, err)
			}
			if err := account.AddServiceImport(log, svc.from, svc.to); err != nil {
				return fmt.Errorf("import %q: %w", svc.from, err)
			}
		}
	}
	return nil
}

// enableLog has the global account keep streams: with other accounts beside it
// the server does not do that by itself.
func enableLog(inner *natsserver.Server) error {
	account := inner.GlobalAccount()
	if account.JetStreamEnabled() {
		return nil
	}
	if err := account.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("recover the store: %w", err)
	}
	return nil
}
