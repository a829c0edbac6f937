"""What several papers share: views, CutMix, strong-weak pairs, teachers, discriminators."""
