from hypothesis import settings

settings.register_profile("keyvouch", deadline=None)  # a busy machine is not a defect
settings.load_profile("keyvouch")
