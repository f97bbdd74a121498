"""What the learner computes with. Needs torch, transformers, numpy and safetensors alone, so that it runs anywhere."""
