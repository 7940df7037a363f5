package users

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestPrincipalsLeadToTheirUser(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	must(t, s.AddUser(t.Context(), "bert"))
	for _, p := range []string{"anna/admin@ADIT.TEST", "anna@ADIT.TEST", "anna@ADIT.TEST"} {
		must(t, s.AddPrincipal(t.Context(), "anna", p))
	}
	if err := s.AddPrincipal(t.Context(), "bert", "anna@ADIT.TEST"); !errors.Is(err, ErrPrincipalTaken) {
		t.Errorf("somebody else's principal: %v", err)
	}
	if u, err := s.UserByPrincipal(t.Context(), "anna@ADIT.TEST"); err != nil || u.Name != "anna" {
		t.Errorf("it leads to %+v, %v", u, err)
	}
	for _, p := range []string{"bert@ADIT.TEST", "Anna@ADIT.TEST", "anna@adit.test", "anna", ""} {
		if u, err := s.UserByPrincipal(t.Context(), p); !errors.Is(err, ErrPrincipalUnknown) {
			t.Errorf("%q leads to %+v, %v", p, u, err)
		}
	}
	if all, err := s.Logins(t.Context()); err != nil || !slices.Equal(all["anna"].Principals, []string{"anna/admin@ADIT.TEST", "anna@ADIT.TEST"}) {
		t.Errorf("they are %+v, %v", all, err)
	}
	if err := s.RemovePrincipal(t.Context(), "bert", "anna@ADIT.TEST"); !errors.Is(err, ErrPrincipalUnknown) {
		t.Errorf("removed from another user: %v", err)
	}
	must(t, s.RemovePrincipal(t.Context(), "anna", "anna@ADIT.TEST"))
	must(t, s.AddPrincipal(t.Context(), "bert", "anna@ADIT.TEST"))
	must(t, s.RemoveUser(t.Context(), "anna"))
	if _, err := s.UserByPrincipal(t.Context(), "anna/admin@ADIT.TEST"); !errors.Is(err, ErrPrincipalUnknown) {
		t.Errorf("it leads to a user who was removed: %v", err)
	}
}

func TestLoginsAreListed(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"anna", "bert", "carl", "dora"} {
		must(t, s.AddUser(t.Context(), name))
	}
	must(t, s.SetPassword(t.Context(), "anna", "correct horse"))
	must(t, s.SetPassword(t.Context(), "bert", "battery staple"))
	must(t, s.AddPrincipal(t.Context(), "bert", "bert@ADIT.TEST"))
	must(t, s.AddPrincipal(t.Context(), "bert", "bert/admin@ADIT.TEST"))
	must(t, s.AddPrincipal(t.Context(), "carl", "carl@ADIT.TEST"))
	want := map[string]Logins{
		"anna": {Password: true},
		"bert": {Password: true, Principals: []string{"bert/admin@ADIT.TEST", "bert@ADIT.TEST"}},
		"carl": {Principals: []string{"carl@ADIT.TEST"}},
	}
	if got, err := s.Logins(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("they are %+v, %v", got, err)
	}
}

func TestPrincipalsThatMakeNoSenseAreRefused(t *testing.T) {
	s := newStore(t)
	must(t, s.AddUser(t.Context(), "anna"))
	for _, p := range []string{"", "anna", "@ADIT.TEST", "anna@", "an na@ADIT.TEST", "anna@ADIT.TEST\n", strings.Repeat("x", 600) + "@X"} {
		if s.AddPrincipal(t.Context(), "anna", p) == nil {
			t.Errorf("%q was added", p)
		}
	}
	if err := s.AddPrincipal(t.Context(), "dora", "dora@ADIT.TEST"); !errors.Is(err, ErrUserUnknown) {
		t.Errorf("for an unknown user: %v", err)
	}
	for i := range maxPrincipals {
		must(t, s.AddPrincipal(t.Context(), "anna", fmt.Sprintf("anna%d@ADIT.TEST", i)))
	}
	if s.AddPrincipal(t.Context(), "anna", "more@ADIT.TEST") == nil {
		t.Error("one more than there may be was added")
	}
}
