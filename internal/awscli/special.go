package awscli

import (
	"encoding/base64"
	"fmt"
	"unicode/utf8"
)

// specials are the parameters that the tool takes in another form, by the
// SDK's service, operation and parameter. Each gets the option's usual name
// and all parameters, and returns words for the shell.
var specials = map[string]func(option string, params map[string]any) []string{
	"EC2 RunInstances MinCount": nothing, // --count has both
	"EC2 RunInstances MaxCount": count,
	"EC2 RunInstances UserData": userData,
}

func nothing(string, map[string]any) []string { return nil }

func count(_ string, params map[string]any) []string {
	low, high := fmt.Sprint(params["MinCount"]), fmt.Sprint(params["MaxCount"])
	if low == high {
		return []string{"--count", low}
	}
	return []string{"--count", low + ":" + high}
}

// userData: the SDK is given it encoded, and the tool encodes it.
func userData(option string, params map[string]any) []string {
	encodedText, _ := params["UserData"].(string)
	text, err := base64.StdEncoding.DecodeString(encodedText)
	if err != nil || !utf8.Valid(text) || len(text) > 0 && text[0] == '-' {
		return []string{option, encoded(encodedText)}
	}
	return []string{option, quote(string(text))}
}
