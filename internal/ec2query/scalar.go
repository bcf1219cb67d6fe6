package ec2query

import (
	"encoding/base64"
	"math"
	"reflect"
	"strconv"
	"time"
)

func decodeString(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	v.SetString(s)
	return nil
}

func decodeBool(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return invalid(group[0], s, "not true or false")
	}
	v.SetBool(b)
	return nil
}

func decodeInt(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(s, 10, v.Type().Bits())
	if err != nil {
		return invalid(group[0], s, "not an integer of this size")
	}
	v.SetInt(n)
	return nil
}

func decodeFloat(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	n, err := strconv.ParseFloat(s, v.Type().Bits())
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return invalid(group[0], s, "not a number")
	}
	v.SetFloat(n)
	return nil
}

func decodeTime(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return invalid(group[0], s, "not a time such as 2006-01-02T15:04:05Z")
	}
	v.Set(reflect.ValueOf(t))
	return nil
}

func decodeBlob(group []param, end int, v reflect.Value) error {
	s, err := single(group, end)
	if err != nil {
		return err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return invalid(group[0], s, "not base64")
	}
	v.SetBytes(b)
	return nil
}
