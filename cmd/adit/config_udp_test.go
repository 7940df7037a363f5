package main

import (
	"testing"
	"time"

	"github.com/adit-net/adit/server"
)

func TestUDPConfigSaysWhatIsWrong(t *testing.T) {
	checkSection(t, "udp", map[string]string{
		`filtering = "address-dependent"`:          "",
		`filtering = "address-and-port-dependent"`: "",
		`filtering = "full-cone"`:                  `udp.filtering: "full-cone" is no kind of filtering | known are: endpoint-independent, address-dependent, address-and-port-dependent`,
		`filtering = ""`:                           `udp.filtering: "" is no kind of filtering | known are: endpoint-independent, address-dependent, address-and-port-dependent`,
		`associations = 1`:                         "",
		`associations = 0`:                         `udp.associations: 0 is out of range | write a number from 1 to 60000`,
		`associations = 60001`:                     `udp.associations: 60001 is out of range | write a number from 1 to 60000`,
		`idle = "0s"`:                              "",
		`idle = "2m"`:                              "",
		`idle = "30s"`:                             `udp.idle: 30s is too short | write "2m" or more, or "0s" for as long as the app stays`,
		`idle = "-1s"`:                             `udp.idle: -1s is too short | write "2m" or more, or "0s" for as long as the app stays`,
	})
}

func TestExitTakesDatagramsAsTheConfigSays(t *testing.T) {
	for _, test := range []struct {
		config udpConfig
		want   *server.Exit
	}{
		{
			udpConfig{Filtering: "address-dependent", Associations: 7, Idle: duration{time.Hour}},
			&server.Exit{Filtering: server.AddressDependent, Associations: 7, AssociationIdle: time.Hour},
		},
		{defaultUDPConfig(), &server.Exit{Associations: server.DefaultAssociations}},
	} {
		var e server.Exit
		if err := test.config.set(&e); err != nil {
			t.Error(err)
		}
		if e.Filtering != test.want.Filtering || e.Associations != test.want.Associations || e.AssociationIdle != test.want.AssociationIdle {
			t.Errorf("%+v gives %v, %d, %v", test.config, e.Filtering, e.Associations, e.AssociationIdle)
		}
	}
	if err := (udpConfig{Filtering: "none"}).set(new(server.Exit)); err == nil {
		t.Error("an unknown word is taken for open")
	}
}
