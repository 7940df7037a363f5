package socks

const roleVariable = "ADIT_TEST_ROLE"
func play(string) int { return 0 }
