"""Calls: inputs and outputs from the request to the answer, web requests and schedules among them."""
