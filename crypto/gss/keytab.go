package gss

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"

	"github.com/adit-net/adit/crypto/gss/cfx"
)

// serviceKey is a key that tickets for one principal are encrypted with.
type serviceKey struct {
	name    []string // such as "rcmd", "proxy.example.org"
	realm   string
	version uint32
	key     cfx.Key
}

// keyring is what is of use in a keytab.
type keyring []serviceKey

// parseKeytab takes the keys of services, or all of them if none is named. Its
// errors repeat nothing of the keytab, which is secret.
func parseKeytab(b []byte, services []string) (keyring, error) {
	var kt keytab.Keytab
	if err := kt.Unmarshal(b); err != nil {
		return nil, errors.New("it is damaged, or no keytab at all") // the cause may repeat it
	}
	var ring keyring
	for _, e := range kt.Entries {
		name := e.Principal.Components
		if len(name) == 0 || len(services) > 0 && !slices.Contains(services, name[0]) {
			continue
		}
		key, err := cfx.NewKey(cfx.EncType(e.Key.KeyType), e.Key.KeyValue)
		if err != nil {
			continue // of a type that is not spoken here
		}
		ring = append(ring, serviceKey{name: name, realm: e.Principal.Realm, version: e.KVNO, key: key})
	}
	switch {
	case len(ring) > 0:
		return ring, nil
	case len(services) > 0:
		return nil, fmt.Errorf("it has no AES key of the services %s", strings.Join(services, ", "))
	}
	return nil, errors.New("it has no AES key")
}

// realms gives each realm once.
func (r keyring) realms() (realms []string) {
	for _, k := range r {
		if !slices.Contains(realms, k.realm) {
			realms = append(realms, k.realm)
		}
	}
	return realms
}

// find gives the keys that a ticket may be encrypted with. Names are compared as
// Windows does, where case does not matter: what counts is whether a key fits.
func (r keyring) find(t messages.Ticket) ([]cfx.Key, error) {
	r = r.filter(func(k serviceKey) bool { return k.realm == t.Realm })
	if len(r) == 0 {
		return nil, fmt.Errorf("%w: the ticket is of %.64q", ErrRealm, t.Realm)
	}
	r = r.filter(func(k serviceKey) bool { return slices.EqualFunc(k.name, t.SName.NameString, strings.EqualFold) })
	if len(r) == 0 {
		return nil, fmt.Errorf("%w: %.64q", ErrService, strings.Join(t.SName.NameString, "/"))
	}
	kind := cfx.EncType(t.EncPart.EType)
	r = r.filter(func(k serviceKey) bool { return k.key.Type() == kind })
	if len(r) == 0 {
		return nil, fmt.Errorf("the keytab has no key of the ticket's %v: %w", kind, cfx.ErrEncType)
	}
	// Old keytabs hold a version's last octet only. Tickets may leave it out.
	version := t.EncPart.KVNO
	r = r.filter(func(k serviceKey) bool { return version == 0 || byte(k.version) == byte(version) })
	if len(r) == 0 {
		return nil, fmt.Errorf("%w: the keytab does not have version %d of the key", ErrTicket, version)
	}
	keys := make([]cfx.Key, len(r))
	for i, k := range r {
		keys[i] = k.key
	}
	return keys, nil
}

func (r keyring) filter(fits func(serviceKey) bool) (fitting keyring) {
	for _, k := range r {
		if fits(k) {
			fitting = append(fitting, k)
		}
	}
	return fitting
}
