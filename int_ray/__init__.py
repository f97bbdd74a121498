"""The algorithm of Interventional Training: data in, data out. Never imports ray or vllm."""
